"""Templates against promptsource itself, and errors of templates."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EXPERIMENTS
from tfew.config import compose
from tfew.data.sources import load_split
from tfew.data.templates import InlineTemplate, load_templates, select_templates
from tfew.errors import UserError
from tfew.evaluate import evaluate
from tfew.schema import Example
from tfew.task import eval_task, load_spec, train_task

# facts: official eval_template.py
ORIGINAL_TASK_TEMPLATES = {
    "copa": 12, "hellaswag": 4, "storycloze": 5, "winogrande": 5, "wsc": 10, "wic": 10, "rte": 10, "cb": 15,
    "anli_r1": 15, "anli_r2": 15, "anli_r3": 15,
}  # fmt: skip


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_numbers_of_original_task_templates_are_the_official_ones(experiment: str) -> None:
    templates = load_templates(load_spec(compose(f"dataset={experiment}")).prompts)
    assert len(select_templates(templates, "original", None)) == ORIGINAL_TASK_TEMPLATES[experiment]


def test_renders_are_promptsources_own(made_data: Path) -> None:
    """promptsource in a process of its own, without our compile cache and seeding."""
    spec = load_spec(compose("dataset=rte"))
    example = load_split(spec, "eval", made_data)[3]
    code = (
        "import json, sys, warnings; warnings.simplefilter('ignore')\n"
        "from promptsource.templates import DatasetTemplates\n"
        "fields = json.loads(sys.argv[1])\n"
        "found = DatasetTemplates('super_glue', 'rte').templates.values()\n"
        "print(json.dumps({t.name: [*t.apply(fields), t.get_answer_choices_list(fields)] for t in found}))"
    )
    import json

    out = subprocess.run(
        [sys.executable, "-c", code, json.dumps(example.fields)], check=True, capture_output=True, text=True
    )
    expected = json.loads(out.stdout)
    for template in load_templates(spec.prompts):
        prompt = template.render("rte", example)
        assert prompt is not None
        text, target, choices = expected.pop(template.name)
        assert (prompt.input, list(prompt.choices)) == (text, choices)
        assert prompt.label is not None
        assert prompt.choices[prompt.label] == target
    assert not expected


def test_copa_trains_with_the_first_eight_and_evaluates_what_is_not_empty(made_data: Path) -> None:
    config = compose("+experiment=copa", f"data_dir={made_data}", "few_shot=draw", "shots=8")
    training, evaluation = train_task(config), eval_task(config)
    names = [prompt.template for prompt in training.prompts[0]]
    assert names == sorted(names)
    assert [len(row) for row in training.prompts] == [8] * 8
    assert training.empty_renders == 0
    assert [len(row) for row in evaluation.prompts] == [10] * 12  # of 12: two are for the other question type
    assert evaluation.empty_renders == 24
    paper = compose("+experiment=copa", f"data_dir={made_data}", "few_shot=draw", "shots=8", "fidelity=paper")
    assert [len(row) for row in train_task(paper).prompts] == [10] * 8


def test_a_template_that_draws_draws_the_same_for_the_same_row(made_data: Path) -> None:
    spec = load_spec(compose("dataset=hellaswag"))
    template = next(t for t in load_templates(spec.prompts) if t.name == "Randomized prompts template")
    examples = load_split(spec, "eval", made_data)
    random.seed(1)
    first = [template.render("h", example) for example in examples]
    before = random.getstate()
    random.seed(2)
    assert [template.render("h", example) for example in examples] == first
    assert len({prompt.input.split(":")[0] for prompt in first if prompt}) > 1
    random.setstate(before)
    state = random.getstate()
    template.render("h", examples[0])
    assert random.getstate() == state


def test_all_takes_every_template_with_choices_and_follows_its_target(made_data: Path) -> None:
    config = compose("+experiment=winogrande", f"data_dir={made_data}", "templates=all")
    prompts = eval_task(config).prompts
    assert len(prompts[0]) == 6
    turned = [prompt for row in prompts for prompt in row if prompt.template == "True or False"]
    assert {prompt.choices for prompt in turned} == {("True", "False")}
    assert [prompt.label for prompt in turned] == [0, 1] * 6


def test_random_evaluation_draws_one_template_per_example(made_data: Path) -> None:
    def drawn(seed: int) -> list[str]:
        config = compose("+experiment=rte", f"data_dir={made_data}", "templates.eval=random", f"eval_seed={seed}")
        rows = eval_task(config).prompts
        assert all(len(row) == 1 for row in rows)
        return [row[0].template for row in rows]

    assert drawn(0) == drawn(0) != drawn(1)
    assert len(set(drawn(0))) > 3


def test_accuracy_of_random_templates_is_that_of_all_rows(made_data: Path, tmp_path: Path) -> None:
    """Not the median of templates, each of which has a few of the rows."""
    given = ("+experiment=rte", f"data_dir={made_data}", "model=tiny", "trainer=cpu", "templates.eval=random")
    record = evaluate(compose(*given, f"runs={tmp_path}", config_name="evaluate"))
    rows = [json.loads(line) for line in (tmp_path / record.name / "predictions.jsonl").read_text().splitlines()]
    assert len({row["template"] for row in rows}) > 3
    right = [row["predicted"] == row["label"] for row in rows]
    assert 0 < sum(right) < len(right)
    metrics = record.metrics
    assert metrics["accuracy"] == metrics["accuracy_by_norm"]["token"] == sum(right) / len(right)
    assert metrics["templates"] == {"drawn at random": {"accuracy": metrics["accuracy"], "rows": len(rows)}}
    low, high = metrics["accuracy_interval"]
    assert low < metrics["accuracy"] < high


def example(**fields: Any) -> Example:
    return Example(idx=7, fields=fields, label=1)


def test_inline_template() -> None:
    prompt = InlineTemplate("q", "{{ text }}?", "No ||| Yes {{ text }}").render("d", example(text="sure"))
    assert prompt is not None
    assert (prompt.input, prompt.choices, prompt.label) == ("sure?", ("No", "Yes sure"), 1)


def test_empty_render_is_none() -> None:
    assert InlineTemplate("q", "{% if 0 %}x{% endif %}", ["a", "b"]).render("d", example()) is None


@pytest.mark.parametrize(
    ("jinja", "choices", "message"),
    [
        ("{{ nothing }}", ["a", "b"], "Template 'q' of d, row 7 cannot be rendered: UndefinedError: 'nothing'"),
        ("x", ["a", False], r"row 7: answer choice False is not text .*Quote a bare yes or no"),
        ("x", ["a", ""], "row 7: answer choice '' is empty"),
        ("x", ["a"], r"row 7: label 1 is outside the choices \['a'\]"),
        ("{{ x.__class__.__mro__ }}", ["a", "b"], "row 7 cannot be rendered: SecurityError"),
    ],
)
def test_what_a_template_can_do_wrong(jinja: str, choices: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        InlineTemplate("q", jinja, choices).render("d", example(x="text"))


def test_invalid_jinja_and_unknown_names() -> None:
    with pytest.raises(UserError, match="The template 'q' cannot be used: it is not valid Jinja"):
        InlineTemplate("q", "{% if %}", ["a"])
    templates = load_templates("super_glue/rte")
    with pytest.raises(
        UserError, match=r"Unknown template 'GPT3 style' \(templates.name=\). Did you mean 'GPT-3 style'"
    ):
        select_templates(templates, "single", "GPT3 style")
    with pytest.raises(UserError, match=r"Unknown promptsource collection 'super_glue/rtee'.*'super_glue/rte'"):
        load_templates("super_glue/rtee")
    with pytest.raises(UserError, match="'Topic of the context' has no answer choices"):
        select_templates(load_templates("hellaswag"), "single", "Topic of the context")
