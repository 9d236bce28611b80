"""A table without further settings: what is inferred, the resulting data section of the run, and training on it."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.test_train import vectors
from tfew.config import checked, compose
from tfew.data.describe_table import TableOptions, describe_table
from tfew.data.infer_columns import MAX_LABEL_CHARACTERS, infer_label_column
from tfew.data.split import held_out_rows
from tfew.dataset_config import complete
from tfew.errors import UserError
from tfew.evaluate import evaluate, with_run_settings
from tfew.runs.card import model_card
from tfew.runs.identity import run_name
from tfew.schema import Prediction
from tfew.tables.table_reader import Table, read_table
from tfew.task import eval_task, load_spec, train_task
from tfew.train import train

TINY = ("+experiment=local", "model=tiny", "trainer=cpu", "steps=2", "batch_size=4")


def table(**columns: Sequence[Any]) -> Table:
    names = list(columns)
    return Table("t.csv", names, [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)])


REVIEWS = table(
    id=[f"r{i}" for i in range(12)],
    review=[f"What a film, number {i}, with a long story" for i in range(12)],
    sentiment=["good", "bad", "so_so"] * 4,
)


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    return write(tmp_path / "my reviews.csv", REVIEWS.rows)


def section(*overrides: str) -> Any:
    return complete(checked(compose(*TINY, *overrides)))


# what is found out


def test_columns_are_inferred_and_reported() -> None:
    found = describe_table(REVIEWS, TableOptions())
    assert (found.text, found.label) == (["review"], "sentiment")
    assert found.notes == [
        "label=sentiment (inferred)",
        "3 labels in 12 rows: bad 4, good 4, so_so 4",
        "text=review (inferred); the model is not shown id",
        "the model says 'bad' for bad, 'good' for good, 'so so' for so_so",
    ]
    stars = [{**row, "sentiment": star} for row, star in zip(REVIEWS.rows, ["1", "1,5", "2"] * 4, strict=True)]
    notes = describe_table(Table("t.csv", REVIEWS.columns, stars), TableOptions()).notes
    assert "'1,5' is one label, a number with a decimal comma (multi_label=true reads two)" in notes
    assert found.section["label"]["names"] == ["bad", "good", "so_so"]
    assert found.section["prompts"] == [
        {
            "name": "default",
            "jinja": "Choices: {{ answer_choices | join(', ') }}\n{{ review }}\nsentiment:",
            "answer_choices": ["bad", "good", "so so"],
            "cut": ["review"],
        }
    ]


def test_a_label_without_a_telling_name_is_known_by_its_few_values() -> None:
    found = describe_table(table(a=list("uvwxyz") * 2, verdict=["x", "y"] * 6), TableOptions(text=["a"]))
    assert found.label == "verdict"
    assert describe_table(
        table(verdict=["x", "y"] * 6, words=[f"long text {i}" for i in range(12)]), TableOptions()
    ).text == ["words"]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"a": ["x", "y"] * 6, "b": ["u", "v"] * 6}, {}, "Which column of t.csv is the label.*it could be a, b"),
        (
            {"a": [str(i) for i in range(9)], "b": list("abcdefghi")},
            {},
            "Which column of t.csv is the label.*one of a, b",
        ),
        ({"label": ["x", "y"] * 6, "n": [1.5] * 12}, {}, "no text column besides the label"),
        ({"text": ["a"] * 3, "label": ["x"] * 3}, {}, "every row has the label 'x'"),
        ({"text": ["a"] * 3, "label": ["x", "y", "z"]}, {}, "no value in 'label' occurs twice"),
        ({"text": ["a", "b", "c"], "label": ["x", " ", "y"]}, {}, "row 2: the label 'label' is empty"),
        ({"text": ["a", "b", None], "label": ["x", "x", "y"]}, {}, "row 3: 'text' is empty"),
        (
            {"u": ["a", ""], "v": ["b", " "], "label": ["x", "x"]},
            {"text": ["u", "v"], "label": "label"},
            "every row has the label 'x'",
        ),
        (
            {"u": ["a", "c", ""], "v": ["b", "", " "], "label": ["x", "x", "y"]},
            {"text": ["u", "v"]},
            "row 3: all of u, v are empty",
        ),
        (
            {"text": ["a"], "label": ["x"]},
            {"text": ["txt"]},
            r"Unknown column 'txt' \(text=; t.csv\). Did you mean 'text'",
        ),
        ({"text": ["a"], "label": ["x"]}, {"label": "labl"}, "Did you mean 'label'"),
        ({"text": ["a"], "label": ["x"]}, {"text": ["label"], "label": "label"}, "would leak the answer"),
    ],
)
def test_what_cannot_be_found_out(columns: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        describe_table(table(**columns), TableOptions(**options))


def words(label: Sequence[Any], choices: Any) -> dict[str, str]:
    found = describe_table(table(text=["t"] * len(label), label=label), TableOptions(choices=choices))
    return dict(zip(found.section["label"]["names"], found.section["prompts"][0]["answer_choices"], strict=True))


def test_longest_values_of_an_inferred_label() -> None:
    def inferred(length: int) -> str:
        rows = [{"text": f"row {i}", "kind": "ab"[i % 2] * length} for i in range(12)]
        return infer_label_column(Table("t", ["text", "kind"], rows), ["text", "kind"])

    assert inferred(MAX_LABEL_CHARACTERS) == "kind"
    with pytest.raises(UserError, match="Which column of t is the label"):
        inferred(MAX_LABEL_CHARACTERS + 1)


def test_labels_are_spelt_as_in_the_table_and_numbered_by_size() -> None:
    assert words(["10", "9", "1", "1"], None) == {"1": "1", "9": "9", "10": "10"}
    assert words([2, 1, 1], None) == {"1": "1", "2": "2"}
    assert words([True, False, True], None) == {"false": "false", "true": "true"}
    assert words([1.0, 0.5, 0.5], None) == {"0.5": "0.5", "1.0": "1.0"}
    assert words(["a_b", "a b", "a b"], None) == {"a b": "a b", "a_b": "a_b"}  # else two labels would look the same


def test_words_for_labels() -> None:
    assert words(["p", "n", "n"], {"p": "great", "n": "awful"}) == {"p": "great", "n": "awful"}
    assert words([0, 1, 1], ["no", "yes"]) == {"0": "no", "1": "yes"}
    assert words([1, 2, 1], ["no", "yes"]) == {"1": "no", "2": "yes"}
    assert words([True, False, True], {True: "yes", False: "no"}) == {"true": "yes", "false": "no"}
    assert words(["b_b", "a", "a"], ["b_b", "a", "unseen"]) == {"b_b": "b b", "a": "a", "unseen": "unseen"}


@pytest.mark.parametrize(
    ("label", "choices", "message"),
    [
        (
            ["p", "n", "n"],
            ["great", "awful"],
            r"does not say which words are for which label: set choices='{n: ..., p:",
        ),
        (["p", "n", "n"], {"p": "great"}, "choices= has no word for the label 'n'"),
        (["p", "n", "n"], {"p": "great", "n": "great"}, "gives two labels the same words"),
        ([2, 3, 3], ["no", "yes"], "does not say which words"),
    ],
)
def test_words_that_do_not_fit(label: list[Any], choices: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        words(label, choices)


CHOICES = [["cat", "dog"], '["3", "4", "cat"]', "one ||| two ||| three ||| four"]


@pytest.mark.parametrize(
    ("label", "by", "first"),
    [
        (["dog", "3", "three"], "text", 0),
        ([1, 0, 2], "number", 0),
        (["2", "1", "4"], "number", 1),
        (["B", "a", "D"], "letter", 0),
    ],
)
def test_choices_of_the_rows_own(label: list[Any], by: str, first: int) -> None:
    found = describe_table(
        table(question=["q1", "q2", "q3"], options=CHOICES, right=label), TableOptions(label="right", choices="options")
    )
    rule = found.section["label"]
    assert (rule["by"], rule["first"], rule["choices"], rule["names"]) == (by, first, "options", None)
    assert found.section["classes"] is False
    assert found.section["columns"] == ["question", "options"]


@pytest.mark.parametrize(
    ("options", "label", "message"),
    [
        (
            [["a", "b"]] * 2,
            ["a", "c"],
            r"text, number or letter in every row; in row 2 it is 'c', with the choices \['a', 'b'\]",
        ),
        ([["a", "b", "c"]] * 2, [1, 2], "may count from 0 or from 1"),
        ([["a", "b"], "a"], ["a", "a"], r"row 2, column 'options': 'a' is not a list of choices"),
        ([["a", "b"], ["a"]], ["a", "a"], "row 2, column 'options'"),
        ([["a", "b"], ["a", "a"]], ["a", "a"], "is repeated"),
        ([["a", "b"], ["a", ""]], ["a", "a"], "a choice is empty"),
    ],
)
def test_choices_of_the_rows_own_that_do_not_work(options: Any, label: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        describe_table(
            table(text=["t"] * 2, options=options, label=label), TableOptions(label="label", choices="options")
        )


def test_column_names_that_a_template_cannot_use() -> None:
    columns = {
        "Tweet text": ["a"] * 3,
        "Tweet_text": ["b"] * 3,
        "2nd": ["c"] * 3,
        "if": ["d"] * 3,
        "Is it?": ["x", "y", "x"],
    }
    found = describe_table(table(**columns), TableOptions(text=["Tweet text", "2nd", "if"], label="Is it?"))
    rename = found.section["rename"]
    assert rename == {"Tweet text": "Tweet_text_", "2nd": "column_2nd_", "if": "if_", "Is it?": "Is_it_"}
    (prompt,) = found.section["prompts"]
    assert prompt["jinja"].splitlines() == [
        "Choices: {{ answer_choices | join(', ') }}",
        "Tweet text: {{ Tweet_text_ }}",
        "2nd: {{ column_2nd_ }}",
        "if: {{ if_ }}",
        "Is it?:",
    ]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ review }} {{ sentiment }}",
            "shows 'sentiment', the label column: the prompt would contain the answer",
        ),
        ("{{ reviw }}", "Unknown column 'reviw' .*Did you mean 'review'"),
        ("{% if true %}hello{% endif %}", "template= shows no column"),
        ("super_gleu", "is neither Jinja.*nor a promptsource collection"),
        ("imdb/Movie", "Unknown template 'Movie'"),
        ("imdb", "Unknown column 'text'"),
    ],
)
def test_templates_that_do_not_fit(template: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        describe_table(REVIEWS, TableOptions(template=template))


# the section `dataset`


def test_the_section_is_whole_and_ordinary(reviews: Path) -> None:
    config = section(f"data={reviews}")
    dataset = OmegaConf.to_container(config.dataset, resolve=True)
    assert config.name == dataset["name"] == "my_reviews"
    assert dataset["files"] == {"train": [str(reviews)], "eval": []}
    assert dataset["rows"] == {"train": 12, "eval": None}
    assert len(dataset["table"]["sha256"]) == 64
    assert dataset["label"] == {
        "column": "sentiment", "names": ["bad", "good", "so_so"], "first": None, "choices": None, "by": None,
    }  # fmt: skip
    assert (config.text, config.label) == (["review"], "sentiment")
    spec = load_spec(config)
    new = spec.example(4, {"review": "fine", "more": 1}, "new.csv", labelled=False)
    assert (new.idx, new.label, new.fields["review"]) == (4, None, "fine")
    with pytest.raises(UserError, match=r"new.csv, row 5: 'review' is empty"):
        spec.example(4, {"review": " "}, "new.csv", labelled=False)
    with pytest.raises(UserError, match=r"row 1: label '1' in column 'sentiment' is none of bad, good, so_so"):
        spec.example(0, {"review": "fine", "sentiment": "1"}, "new.csv")


def test_the_label_never_reaches_the_prompt(reviews: Path) -> None:
    task = train_task(section(f"data={reviews}", "text=[id,review]"))
    for example, (prompt,) in zip(task.examples, task.prompts, strict=True):
        assert (
            prompt.input
            == f"Choices: bad, good, so so\nid: r{example.idx}\nreview: {example.fields['review']}\nsentiment:"
        )
        assert prompt.choices[prompt.label or 0] == ("good", "bad", "so so")[example.idx % 3]
        assert [prompt.input[start:end] for start, end in prompt.cuttable] == [
            f"r{example.idx}",
            example.fields["review"],
        ]


def test_own_choices_are_ranked_row_by_row(tmp_path: Path) -> None:
    rows = [{"q": f"what {i}", "o": CHOICES[i % 3], "label": ("dog", "3", "three")[i % 3]} for i in range(12)]
    task = train_task(section(f"data={write(tmp_path / 't.jsonl', rows)}", "text=q", "choices=o"))
    assert [prompt.choices for (prompt,) in task.prompts[:3]] == [
        ("cat", "dog"), ("3", "4", "cat"), ("one", "two", "three", "four"),
    ]  # fmt: skip
    assert [prompt.label for (prompt,) in task.prompts[:3]] == [1, 0, 2]
    assert task.prompts[1][0].input == "Choices: 3, 4, cat\nwhat 1\nAnswer:"
    assert task.classes is None


def test_a_template_of_ones_own(reviews: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text(
        "It costs ${{ id }}. {% for c in answer_choices %}[{{ c }}]{% endfor %} {{ review }}?"
    )
    task = train_task(section(f"data={reviews}", f"template={tmp_path}/t.jinja"))
    (prompt,) = task.prompts[0]
    assert prompt.input == f"It costs $r0. [bad][good][so so] {REVIEWS.rows[0]['review']}?"
    assert [prompt.input[start:end] for start, end in prompt.cuttable] == ["r0", REVIEWS.rows[0]["review"]]


def test_a_promptsource_template_by_name(tmp_path: Path) -> None:
    rows = [{"text": f"film {i}", "liked": ("no", "yes")[i % 2]} for i in range(8)]
    path = write(tmp_path / "films.csv", rows)
    name = "Movie Expressed Sentiment"
    config = section(f"data={path}", "label=liked", f'template="imdb/{name}"')
    assert (config.dataset.prompts, config.templates.use, config.templates.name) == ("imdb", "single", name)
    (prompt,) = train_task(config).prompts[1]
    assert prompt.choices[prompt.label or 0] == "positive"
    assert prompt.input == "film 1 The sentiment expressed for the movie is"
    write(path, [{"text": f"film {i}", "liked": "abc"[i % 3]} for i in range(9)])
    with pytest.raises(UserError, match=r"answers with .*, in this order; the labels of films are a, b, c"):
        train_task(section(f"data={path}", "label=liked", f'template="imdb/{name}"'))


def test_of_repeated_rows_a_quarter_is_held_out_and_earlier_runs_keep_theirs(tmp_path: Path) -> None:
    rows = [{"text": f"film {number}", "label": "ab"[number % 2]} for number in range(24)] * 2
    given = (f"data={write(tmp_path / 'films.csv', rows)}", "folds=null", "validation=0.25")
    config = section(*given)
    training, held_out = train_task(config), eval_task(config)
    assert held_out is not None
    assert (training.rows, held_out.rows) == (36, 12)
    assert not {row[0].input for row in training.prompts} & {row[0].input for row in held_out.prompts}
    earlier = OmegaConf.create(OmegaConf.to_container(config))
    del earlier.dataset.held_out["grouped"]
    assert run_name(earlier) == run_name(config)
    drawn = held_out_rows([number % 2 for number in range(48)], [number % 24 for number in range(48)], 0.25, 0)
    assert 0 < len(drawn) < 12
    assert train_task(earlier).rows == 48 - len(drawn)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% if title %}{{ title }}: {{ text }}{% endif %}",
            r"Every template of films renders row 7 empty; fill in its columns, or change template=\.",
        ),
        (
            "{{ title[0] }} {{ text }}",
            r"template= of films, row 7 cannot be rendered: UndefinedError: str object has no",
        ),
        (
            "{{ text.split()[0] }} {{ text.nothing }}",
            r"template= of films, row 1 cannot.*'str object' has",
        ),
        ("{{ title }} {% for %}", r"^template= cannot be used: it is not valid Jinja"),
    ],
)
def test_errors_of_a_template_name_the_tables_row_and_the_setting(template: str, message: str, tmp_path: Path) -> None:
    rows = [{"title": f"T{n}" * (n != 6), "text": f"film {n}", "liked": "yn"[n % 2]} for n in range(12)]
    path = write(tmp_path / "films.csv", rows)
    with pytest.raises(UserError, match=message):
        train_task(section(f"data={path}", "label=liked", f'template="{template}"', "folds=null"))


def test_a_quarter_of_the_rows_is_held_out(reviews: Path) -> None:
    config = section(f"data={reviews}", "folds=null", "validation=0.25")
    training, held_out = train_task(config), eval_task(config)
    assert held_out is not None
    assert (training.rows, held_out.rows) == (9, 3)
    assert {e.idx for e in training.examples} | {e.idx for e in held_out.examples} == set(range(12))
    assert sorted(e.label or 0 for e in held_out.examples) == [0, 1, 2]  # one of each label
    other = eval_task(section(f"data={reviews}", "folds=null", "validation=0.25", "few_shot_seed=1"))
    assert other is not None
    assert [e.idx for e in other.examples] != [e.idx for e in held_out.examples]
    with pytest.raises(UserError, match=r"validation=0.01 of 12 rows holds out no row"):
        train_task(section(f"data={reviews}", "folds=null", "validation=0.01"))


def test_a_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = datasets.Dataset.from_dict({"text": list("abcdefgh"), "label": [0, 1] * 4}, features=features)
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: asked.append((args, kwargs)) or rows)
    config = section("data=ann/films", "dataset.hub.config=small")
    assert asked == [(("ann/films", "small"), {"split": "train", "revision": "main"})]
    assert config.dataset.label.names == ["neg", "pos"]
    task = train_task(config)
    assert [(p.choices[p.label or 0]) for (p,) in task.prompts[:2]] == ["neg", "pos"]
    assert config.dataset.name == "ann_films"


def test_a_run_on_a_file_is_evaluated_on_a_set_of_the_hub(
    reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    record = run(f"data={reviews}", "folds=null", "text=review", "label=sentiment", runs=tmp_path)
    columns = {name: [row[name] for row in REVIEWS.rows] for name in REVIEWS.columns}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_dict(columns))
    same = _evaluated(tmp_path / record.name, f"data={reviews}", f"runs={tmp_path}/a")
    assert _evaluated(tmp_path / record.name, "data=ann/films", f"runs={tmp_path}/b") == same


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "data= is missing"),
        (("data=/no/where.csv",), r"/no/where.csv does not exist"),
        (("data=no/where/at/all",), "Unknown file ending"),
        (("data=x.csv", "dataset=rte"), r"data= is for a table of your own: use \+experiment=local"),
        (("folds=1",), "folds=1 is not a whole number of at least 2"),
        (("validation=1.5", "folds=null"), "validation=1.5 is not a share between 0 and 1"),
        (("validation=0.2",), "folds= evaluates on every row, validation= on a share of them: give one"),
    ],
)
def test_settings_that_cannot_work(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        section(*overrides)


def test_labels_that_a_configuration_would_misread(tmp_path: Path) -> None:
    rows = [{"text": "t", "label": ("${x}", "y")[i % 2]} for i in range(6)]
    with pytest.raises(UserError, match=r"'\$\{x\}' \(dataset.label\) has a special meaning"):
        section(f"data={write(tmp_path / 't.jsonl', rows)}")


def test_more_shots_than_all_is_a_contradiction(reviews: Path) -> None:
    with pytest.raises(UserError, match="shots=4, but few_shot=all uses all rows: to draw some, set few_shot=draw"):
        train_task(section(f"data={reviews}", "shots=4"))
    assert train_task(section(f"data={reviews}", "shots=4", "few_shot=draw")).rows == 4
    with pytest.raises(UserError, match="shots=null: few_shot=draw needs their number"):
        train_task(section(f"data={reviews}", "few_shot=draw"))


# training


def run(*overrides: str, runs: Path) -> Any:
    return train(compose(*TINY, f"runs={runs}", *overrides))


def predictions(folder: Path) -> list[Prediction]:
    return [Prediction.from_json(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_every_row_is_predicted_by_an_adapter_that_did_not_see_it(
    reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run(f"data={reviews}", "folds=3", runs=tmp_path)
    folder = tmp_path / record.name
    found = predictions(folder)
    assert [p.idx for p in found] == list(range(12))
    assert sorted(p.fold for p in found) == [0] * 4 + [1] * 4 + [2] * 4
    assert record.counts["rows"] == 12
    assert record.metrics["accuracy"] == sum(p.predicted == p.label for p in found) / 12
    assert set(record.metrics["classes"]) == {"bad", "good", "so_so"}
    assert len(record.metrics["folds"]) == 3
    assert record.split == "folds"
    card = model_card(record, in_peft=False, merges=False)
    assert "| data set | my_reviews, all 12 rows |" in card
    assert "on held-out folds of the training rows, 12 rows" in card
    assert str(tmp_path) not in card
    assert (folder / "adapter.safetensors").is_file()
    out = capsys.readouterr().out
    assert "macro-F1" in out
    assert "so_so" in out
    assert "Too" in out
    # the first fold, as a run of its own on the other two folds' rows
    outside = [REVIEWS.rows[p.idx] for p in found if p.fold != 0]
    inside = [REVIEWS.rows[p.idx] for p in found if p.fold == 0]
    alone = run(f"data={write(tmp_path / 'outside.csv', outside)}", "folds=null", runs=tmp_path)
    assert alone.metrics.keys() == {"final_loss"}
    other = write(tmp_path / "inside.csv", inside)
    scores = _evaluated(tmp_path / alone.name, f"data={other}", f"runs={tmp_path}")
    expected = [p.scores for p in found if p.fold == 0]
    for ours, theirs in zip(scores, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)
    # and the adapter that is kept has seen all rows
    everything = run(f"data={reviews}", "folds=null", f"run_dir={tmp_path}/all", runs=tmp_path)
    assert everything.metrics.keys() == {"final_loss"}
    ours, theirs = vectors(folder), vectors(tmp_path / "all")
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def _evaluated(adapter: Path, *overrides: str) -> list[tuple[float, ...]]:
    given = (f"adapter={adapter}", *overrides)
    config = with_run_settings(compose(*given, config_name="evaluate"), list(given))
    record = evaluate(config)
    return [p.scores for p in predictions(Path(config.runs) / record.name)]


def test_a_run_is_evaluated_on_other_tables_under_other_column_names(reviews: Path, tmp_path: Path) -> None:
    record = run(f"data={reviews}", "folds=null", "text=review", "label=sentiment", runs=tmp_path)
    adapter = tmp_path / record.name
    same = _evaluated(adapter, f"data={reviews}", f"runs={tmp_path}/a")
    renamed = [{"body": row["review"], "kind": row["sentiment"]} for row in REVIEWS.rows]
    path = write(tmp_path / "renamed.jsonl", renamed)
    assert _evaluated(adapter, f"data={path}", "text=body", "label=kind", f"runs={tmp_path}/b") == same
    with pytest.raises(UserError, match="row 1 lacks 'review'"):
        _evaluated(adapter, f"data={path}", f"runs={tmp_path}/c")
    with pytest.raises(UserError, match=r"text=body,kind must name as many columns as the run has texts: review"):
        _evaluated(adapter, f"data={path}", "text=[body,kind]", f"runs={tmp_path}/c")
    with pytest.raises(UserError, match="my_reviews has no rows to evaluate that the adapter was not trained on"):
        _evaluated(adapter, f"runs={tmp_path}/d")


def test_rows_that_an_adapter_was_trained_on_are_counted(
    reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 12 rows in `reviews`; the bag of words, which would be trained on the same rows, is not compared with."""
    adapter = tmp_path / run(f"data={reviews}", "folds=null", runs=tmp_path).name
    new = [{**row, "review": f"Quite new: {row['review']}"} for row in REVIEWS.rows]
    again = [{**row, "review": row["review"].upper()} for row in REVIEWS.rows[:5]]
    for number, (rows, expected) in enumerate(((new, None), (new + again, 5))):
        capsys.readouterr()
        given = [f"adapter={adapter}", f"data={write(tmp_path / f'{number}.csv', rows)}", f"runs={tmp_path}/{number}"]
        record = evaluate(with_run_settings(compose(*given, config_name="evaluate"), given))
        assert record.counts["rows"] == len(rows), "they are evaluated, as asked"
        assert record.metrics.get("trained_on") == expected
        said = f"trained on {expected} of these 17 rows"
        assert [said in text for text in (capsys.readouterr().out, (record.folder / "report.html").read_text())] == (
            [expected is not None] * 2
        )
        assert ("bag of words" in record.metrics["baselines"]) == (expected is None)
    write(reviews, [*REVIEWS.rows, *new])
    capsys.readouterr()
    given = [f"adapter={adapter}", f"data={reviews}", f"runs={tmp_path}/grown"]
    record = evaluate(with_run_settings(compose(*given, config_name="evaluate"), given))
    assert record.metrics["trained_on"] is None, "of which rows it was is not known"
    said = f"has changed since, so it cannot be told how many of these {2 * len(new)} rows it was trained on"
    assert said in capsys.readouterr().out
    assert said in (record.folder / "report.html").read_text()
    assert "bag of words" not in record.metrics["baselines"]


@pytest.mark.parametrize(("shots", "evaluated"), [(1, 11), (5, 7), (12, None), ("null", None)])
def test_rows_that_the_context_shows_are_not_evaluated(
    shots: int | str, evaluated: int | None, reviews: Path, tmp_path: Path
) -> None:
    given = [*TINY, f"data={reviews}", f"runs={tmp_path}", "icl.mode=ensemble", f"icl.shots={shots}"]
    config = compose(*given, config_name="evaluate")
    if evaluated is None:
        with pytest.raises(UserError, match=r"shows all 12 rows of my_reviews with their labels.*icl\.shots=8"):
            evaluate(config)
        return
    record = evaluate(config)
    assert record.counts["rows"] == evaluated
    shown = [
        json.loads(line)["idx"] for line in next((record.folder / "few_shot").rglob("*.jsonl")).read_text().splitlines()
    ]
    assert sorted(shown + [p.idx for p in predictions(record.folder)]) == list(range(12))


def test_the_bare_model_is_tried_on_all_rows(reviews: Path, tmp_path: Path) -> None:
    record = evaluate(compose(*TINY, f"data={reviews}", f"runs={tmp_path}", config_name="evaluate"))
    assert (record.method, record.counts["rows"]) == ("zero_shot", 12)


def test_a_table_that_has_changed_is_another_run_and_no_longer_the_old_ones(reviews: Path, tmp_path: Path) -> None:
    first = run(f"data={reviews}", "folds=null", "validation=0.25", runs=tmp_path)
    write(reviews, [{**row, "review": row["review"] + "!"} for row in REVIEWS.rows])
    with pytest.raises(UserError, match=r"my reviews.csv has changed since this run's settings were inferred from it"):
        _evaluated(tmp_path / first.name, f"runs={tmp_path}")
    assert run(f"data={reviews}", "folds=null", "validation=0.25", runs=tmp_path).name != first.name


@pytest.mark.slow
def test_finished_folds_are_not_done_again(reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tfew.training import folds_at_once

    whole = run(f"data={reviews}", "folds=3", f"run_dir={tmp_path}/whole", runs=tmp_path)
    fitted, train_fold = [], folds_at_once.train_fold

    def interrupted(*arguments: Any, **given: Any) -> Any:
        folder = arguments[-1]
        fitted.append(folder.name)
        if len(fitted) == 2:
            raise KeyboardInterrupt
        return train_fold(*arguments, **given)

    monkeypatch.setattr(folds_at_once, "train_fold", interrupted)
    again = (f"data={reviews}", "folds=3", f"run_dir={tmp_path}/again")
    with pytest.raises(KeyboardInterrupt):
        run(*again, runs=tmp_path)
    assert not (tmp_path / "again" / "result.json").exists()
    kept = tmp_path / "again" / "fold_0" / "predictions.jsonl"
    text = kept.read_text()
    kept.write_text(text.replace("0", "1", 1))
    with pytest.raises(UserError, match=r"predictions.jsonl is damaged .* Delete .*fold_0, and resume"):
        run(*again, "resume=true", runs=tmp_path)
    kept.write_text(text)
    record = run(*again, "resume=true", runs=tmp_path)
    assert fitted == ["fold_0", "fold_1", "fold_1", "fold_2"]
    assert record.metrics == whole.metrics
    assert predictions(tmp_path / "again") == predictions(tmp_path / "whole")
    run(*again, "overwrite=true", runs=tmp_path)
    assert fitted[4:] == ["fold_0", "fold_1", "fold_2"]


def test_folds_of_any_data_set(train_tiny: Any, tmp_path: Path) -> None:
    record = train_tiny("shots=12", "folds=2", "batch_size=4")
    found = predictions(tmp_path / record.name)
    assert (record.counts["rows"], len(found)) == (12, 12 * len(record.metrics["templates"]))
    assert len({p.fold for p in found if p.idx == found[0].idx}) == 1
    assert record.metrics["folds"] == pytest.approx(
        [
            sum(p.predicted == p.label for p in found if p.fold == fold) / sum(p.fold == fold for p in found)
            for fold in (0, 1)
        ]
    )


def test_folds_that_leave_too_few_rows(reviews: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="folds=13, but there are only 12 rows to train on"):
        run(f"data={reviews}", "folds=13", runs=tmp_path)
    with pytest.raises(
        UserError, match="folds=2 leaves fewer than batch_size=8 of 12 rows to train on: set batch_size=6 or less"
    ):
        run(f"data={reviews}", "folds=2", "batch_size=8", runs=tmp_path)
    assert not list(tmp_path.glob("*/config.yaml"))


def test_a_table_is_read_as_it_was_described(reviews: Path) -> None:
    """What the section was made from is what training reads."""
    task = train_task(section(f"data={reviews}"))
    assert [example.fields["review"] for example in task.examples] == [
        row["review"] for row in read_table(reviews).rows
    ]
