"""Prediction on new rows: the same numbers as an evaluation, many tasks at once, and atomic output files."""

import csv
import io
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run_command, start_command
from tests.test_train import folder, predictions
from tfew.config import compose, resolved
from tfew.data.dataset import DatasetSpec
from tfew.data.sources import load_split
from tfew.data.templates import Template, load_templates
from tfew.errors import UserError
from tfew.files import partial_file
from tfew.mini_t0.world import generate
from tfew.predict import predict
from tfew.prediction import bulk_predict as labelling
from tfew.prediction.bulk_predict import windows
from tfew.prediction.predictor import Predictor
from tfew.prediction.result_rows import ResultRows
from tfew.prediction.task_predictor import Labelled, TaskPredictor, WrongTemplatesError
from tfew.runs.records import RunRecord
from tfew.tables.rows import StreamedRow, StreamPosition
from tfew.train import train

FAMILIES = ("commits", "complaint", "blank")
ROWS = 32


def trained(runs: Path, family: str, *overrides: str) -> RunRecord:
    common = (f"dataset=mini/{family}", "trainer=cpu", "steps=8", "shots=16", f"runs={runs}")
    return train(compose("+experiment=mini_few_shot", *common, f"dataset.generator.eval={ROWS}", *overrides))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {family: folder(trained(root, family)) for family in FAMILIES}


def packing(family: str) -> list[dict[str, Any]]:
    rows = generate(split="eval", family=family, seed=0, train=20000, validation=1000, eval=ROWS)
    return [dict(rows[number]) for number in range(ROWS)]


def unlabelled(family: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in ("label", "idx")} for row in packing(family)]


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(), newline="")))


def run(*overrides: str) -> Any:
    overrides = ("trainer=cpu", *overrides)
    return predict(compose(*overrides, config_name="predict"), overrides)


def assert_same(ours: Sequence[Labelled], theirs: Sequence[Labelled], tolerance: float = 1e-5) -> None:
    assert [row.label for row in ours] == [row.label for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=tolerance)


def test_probabilities_are_the_evaluations_scores(runs: dict[str, Path]) -> None:
    """Softmax of each template's scores over the temperature, averaged; the rows' labels are not there."""
    predictor = Predictor.load(runs["commits"], "trainer=cpu")
    labelled = predictor(unlabelled("commits"))
    temperature = json.loads((runs["commits"] / "temperature.json").read_text())["temperature"]
    assert temperature != 1
    names = ("entailment", "contradiction", "neutral")
    evaluated = predictions(runs["commits"])
    for number, ours in enumerate(labelled):
        theirs = evaluated[3 * number : 3 * number + 3]
        assert len({prediction.idx for prediction in theirs}) == 1
        weights = [[math.exp(score / temperature) for score in prediction.scores] for prediction in theirs]
        expected = [sum(row[c] / sum(row) for row in weights) / 3 for c in range(3)]
        assert ours.probabilities == pytest.approx(dict(zip(names, expected, strict=True)), abs=1e-5)
        assert ours.label == names[max(range(3), key=expected.__getitem__)]
        assert ours.probability == max(ours.probabilities.values())
    assert len({row.label for row in labelled}) > 1


def test_calibration_error_of_what_is_delivered_is_the_records(runs: dict[str, Path]) -> None:
    from tfew.ranking.temperature import expected_calibration_error
    from tfew.runs.records import load_record

    for family in FAMILIES:
        predictor = Predictor.load(runs[family], "trainer=cpu")
        (labeller,) = predictor.tasks.values()
        labeller.temperature = 1.0
        labelled = predictor(unlabelled(family))
        import numpy as np

        probability = np.array([list(row.probabilities.values()) for row in labelled])
        labels = np.array([row["label"] for row in packing(family)])
        expected = load_record(runs[family]).metrics["calibration"]["ece"]
        assert expected_calibration_error(probability, labels) == pytest.approx(expected, abs=1e-5)


def test_one_template_is_the_evaluations_of_that_template(runs: dict[str, Path]) -> None:
    options = ("trainer=cpu", "templates=single", 'templates.name="wording 2"')
    labelled = Predictor.load(runs["complaint"], *options)(unlabelled("complaint"))
    evaluated = [p for p in predictions(runs["complaint"]) if p.template == "wording 2"]
    assert [row.label for row in labelled] == [("no complaint", "complaint")[p.predicted] for p in evaluated]


@pytest.mark.parametrize("options", [("engine=plain",), ("memory_gb=0.001",), ("eval_batch_size=7",), ("merge=true",)])
def test_how_it_is_computed_does_not_matter(options: tuple[str, ...], runs: dict[str, Path]) -> None:
    rows = unlabelled("commits")
    expected = Predictor.load(runs["commits"], "trainer=cpu")(rows)
    assert_same(Predictor.load(runs["commits"], "trainer=cpu", *options)(rows), expected)


def test_merged_means_merged(runs: dict[str, Path]) -> None:
    from torch import nn

    model = Predictor.load(runs["commits"], "trainer=cpu", "merge=true").model
    assert not any(hasattr(module, "ia3") for module in model.modules())
    assert type(model.get_submodule("encoder.block.0.layer.0.SelfAttention.k")) is nn.Linear


def test_pmi_takes_each_tasks_own_choices(runs: dict[str, Path], tmp_path: Path) -> None:
    """Against evaluations with that norm, alone and in mixed batches."""
    from tfew.evaluate import evaluate, with_run_settings

    rows, tasks, expected = [], [], []
    for family in ("complaint", "commits"):
        overrides = [f"adapter={runs[family]}", "score.norm=pmi", "trainer=cpu", f"runs={tmp_path}"]
        record = evaluate(with_run_settings(compose(*overrides, config_name="evaluate"), overrides))
        found = [p for p in predictions(folder(record)) if p.template == "wording 1"]
        names = record.config["dataset"]["label"]["names"]
        expected += [names[prediction.predicted] for prediction in found]
        rows += unlabelled(family)
        tasks += [family] * ROWS
    options = ("trainer=cpu", "score.norm=pmi", "templates=single", 'templates.name="wording 1"')
    both = Predictor.load({family: runs[family] for family in ("complaint", "commits")}, *options)
    assert [row.label for row in both(rows, tasks)] == expected
    assert all(labeller.temperature == 1 for labeller in both.tasks.values()), "fitted for another norm"


def mixed() -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of all families, shuffled."""
    pairs = [(row, family) for family in FAMILIES for row in unlabelled(family)]
    random.Random(0).shuffle(pairs)
    return [row for row, _ in pairs], [family for _, family in pairs]


@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_mixed_batches_are_each_tasks_own_predictions(engine: str, runs: dict[str, Path]) -> None:
    rows, tasks = mixed()
    options = ("trainer=cpu", f"engine={engine}", "eval_batch_size=16")
    labelled = Predictor.load(runs, *options)(rows, tasks)
    for family in FAMILIES:
        mine = [row for row, task in zip(rows, tasks, strict=True) if task == family]
        alone = [replace(row, task=family) for row in Predictor.load(runs[family], *options)(mine)]
        assert_same([row for row in labelled if row.task == family], alone)


def test_tasks_come_and_go(runs: dict[str, Path]) -> None:
    predictor = Predictor.load({"one": runs["commits"], "two": runs["complaint"]}, "trainer=cpu")
    rows = unlabelled("commits")[:8]
    before = predictor(rows, "one")
    predictor.add("three", runs["blank"])
    blank = predictor(unlabelled("blank")[:8], "three")
    predictor.remove("two")
    assert list(predictor.tasks) == ["one", "three"]
    predictor.add("four", runs["complaint"])
    assert_same(predictor(rows, "one"), before)
    assert_same(predictor(unlabelled("blank")[:8], "three"), blank)
    with pytest.raises(UserError, match="is of the unknown task 'two'; known tasks: four, one, three"):
        predictor(rows, "two")
    with pytest.raises(UserError, match="names no task"):
        predictor(rows)
    with pytest.raises(UserError, match="There is a task named 'one' already"):
        predictor.add("one", runs["blank"])
    with pytest.raises(UserError, match="has one adapter"):
        Predictor.load(runs["commits"], "trainer=cpu").add("two", runs["blank"])


def test_threads_share_a_predictor(runs: dict[str, Path]) -> None:
    """The fast engine changes the model during a batch: two batches at once raise errors."""
    predictor = Predictor.load(runs, "trainer=cpu", "eval_batch_size=4")
    requests = [(unlabelled(family)[:8], family) for family in FAMILIES]
    alone = [predictor(*request) for request in requests]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda request: predictor(*request), requests * 4))
    for labelled, expected in zip(answers, alone * 4, strict=True):
        assert_same(labelled, expected)


@pytest.mark.slow
def test_adapters_that_cannot_share_a_batch(runs: dict[str, Path], tmp_path: Path) -> None:
    lora = folder(trained(tmp_path, "commits", "method=lora", "steps=2"))
    with pytest.raises(UserError, match=r"The method LoRA cannot share a batch with other tasks"):
        Predictor.load({"a": runs["commits"], "b": lora}, "trainer=cpu")
    assert len(Predictor.load(lora, "trainer=cpu")(unlabelled("commits"))) == ROWS, "alone it can"
    other = folder(trained(tmp_path, "commits", "model.arch.num_layers=1", "steps=2"))
    predictor = Predictor.load({"a": runs["commits"]}, "trainer=cpu")
    with pytest.raises(UserError, match=r"Task 'b' was trained on another model .*arch.num_layers: 1 there, 4 here"):
        predictor.add("b", other)
    assert list(predictor.tasks) == ["a"]


def test_rows_of_plain_text(runs: dict[str, Path]) -> None:
    text = [row["text"] for row in unlabelled("complaint")]
    named = Predictor.load(runs["complaint"], "trainer=cpu", "dataset.columns=[text]")
    assert_same(named(text), named(unlabelled("complaint")))
    by_templates = Predictor.load(runs["complaint"], "trainer=cpu")  # whose templates show one column
    assert_same(by_templates(text), named(text))
    with pytest.raises(UserError, match=r"row 1: a row of complaint is not a plain text; it has columns: a, text"):
        Predictor.load(runs["complaint"], "trainer=cpu", "dataset.columns=[text,a]")(text)


def test_columns_by_other_names_and_missing_ones(runs: dict[str, Path]) -> None:
    rows = [{"body": row["text"]} for row in unlabelled("complaint")]
    renamed = Predictor.load(runs["complaint"], "trainer=cpu", "+dataset.rename={body: text}", "dataset.columns=[text]")
    assert_same(renamed(rows), Predictor.load(runs["complaint"], "trainer=cpu")(unlabelled("complaint")))
    with pytest.raises(UserError, match=r"complaint, row 2 lacks 'body'; it has 'other'"):
        renamed([rows[0], {"other": "x"}])


def test_the_bare_model_can_be_asked_too(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", unlabelled("complaint"))
    run("+experiment=mini_few_shot", "dataset=mini/complaint", "model=mini_t0", f"input={source}",
        f"output={tmp_path}/out.jsonl")  # fmt: skip
    assert len(read_jsonl(tmp_path / "out.jsonl")) == ROWS


# ---- templates that need the label, turn the question round, or answer something else


def labeller(name: str, templates: str, data_dir: Path) -> tuple[TaskPredictor, list[Any]]:
    spec = DatasetSpec.from_config(resolved(compose(f"dataset={name}").dataset))
    chosen = [t for t in load_templates(spec.prompts) if templates in ("", t.name) and t.has_choices]
    return TaskPredictor("task", spec, chosen, "token", 1.0), list(load_split(spec, "eval", data_dir))


@pytest.mark.parametrize(
    "name", ["rte", "cb", "copa", "wic", "wsc", "winogrande", "hellaswag", "storycloze", "anli_r1"]
)
def test_rows_without_label_are_worded_as_those_with(name: str, made_data: Path) -> None:
    """Some of promptsource's templates look at the label (winogrande's "stand for"), none of these shows it."""
    ours, examples = labeller(name, "", made_data)
    assert ours.spec.label is not None
    with_label = {t.name: t for t in load_templates(ours.spec.prompts) if t.has_choices}
    for number, example in enumerate(examples, start=1):
        row = {key: value for key, value in example.fields.items() if key not in (ours.spec.label.column, "label")}
        found = {prompt.template: prompt for prompt in ours.prompts(number, row)}
        assert found
        for template, prompt in found.items():
            theirs = with_label[template].render(name, replace(example, idx=number))
            assert theirs is not None
            assert (prompt.input, prompt.choices, prompt.label) == (theirs.input, theirs.choices, None)
            assert theirs.label == example.label


class Made(Template):
    """Answers yes or no, wording the row by `text`, the right answer by `target`."""

    original_task = has_choices = True
    columns = frozenset({"text"})

    def __init__(self, name: str, text: str, target: str) -> None:
        self.name, self.text, self.target = name, text, target

    def _render(self, fields: Mapping[str, Any]) -> Any:
        values = {**fields, "other": 1 - fields["label"]}
        return self.text.format(**values), ("no", "yes")[int(self.target.format(**values))], ["no", "yes"], ()


def test_templates_that_do_not_answer_with_the_labels_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    spec = DatasetSpec.from_config(resolved(compose("dataset=mini/complaint").dataset))
    straight = Made("straight", "{text}", "{label}")
    turned = Made("turned", "is it wrong that {text}", "{other}")
    telling = Made("telling", "{text} ({label})", "{label}")
    constant = Made("constant", "{text}", "1")
    ours = TaskPredictor("task", spec, [turned, straight, telling, constant], "token", 1.0)
    assert [prompt.template for prompt in ours.prompts(1, {"text": "x"})] == ["straight"]
    assert ours.templates == ("straight",)
    for only in (turned, telling, constant):
        with pytest.raises(WrongTemplatesError, match=r"No template of complaint answers with its labels.*templates="):
            TaskPredictor("task", spec, [only], "token", 1.0).prompts(1, {"text": "x"})


def test_a_bad_first_row_leaves_no_template_out() -> None:
    spec = DatasetSpec.from_config(resolved(compose("dataset=mini/complaint", "dataset.columns=[text]").dataset))
    ours = TaskPredictor("task", spec, [Made("straight", "{text}", "{label}")], "token", 1.0)
    with pytest.raises(UserError, match="task, row 1 lacks 'text'"):
        ours.prompts(1, {})
    assert len(ours.prompts(2, {"text": "x"})) == 1


def test_choices_of_a_rows_own(runs: dict[str, Path], tmp_path: Path) -> None:
    """Where no names are shared, the label is the text of the choice; the same text twice is one answer."""
    prompts = "[{name: w, jinja: '{{ text }}', answer_choices: '{{ choices | join(\" ||| \") }}'}]"
    rows = [{"text": "which?", "choices": ["one", "two", "three"][: 2 + n % 2]} for n in range(6)]
    rows.append({"text": "which?", "choices": ["one", "one", "two"]})
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    common = (f"adapter={runs['blank']}", "dataset.label=null", f"dataset.prompts={prompts}", f"input={source}")
    run(*common, f"output={tmp_path}/out.jsonl")
    run(*common, f"output={tmp_path}/out.csv")
    found = read_jsonl(tmp_path / "out.jsonl")
    assert [list(row["probabilities"]) for row in found[:2]] == [["one", "two"], ["one", "two", "three"]]
    assert all(row["label"] in row["choices"] for row in found)
    assert sum(found[-1]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    table = read_csv(tmp_path / "out.csv")
    assert list(table[0]) == ["text", "choices", "label", "probability", "probabilities"]
    assert [json.loads(row["probabilities"]) for row in table] == [row["probabilities"] for row in found]
    assert [json.loads(row["choices"]) for row in table] == [row["choices"] for row in rows]


# ---- files


def test_a_table_comes_back_in_order_with_its_columns(runs: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"id": f"r{n}", **row, "label": "gold", "none": ""} for n, row in enumerate(unlabelled("complaint"))]
    source = tmp_path / "in.csv"
    with source.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "label", "none"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    progress = run(f"adapter={runs['complaint']}", f"input={source}", f"output={tmp_path}/out.csv")
    table = read_csv(tmp_path / "out.csv")
    own = ["label", "probability", "p_no complaint", "p_complaint"]
    assert list(table[0]) == ["id", "text", "input_label", "none", *own]
    assert [(row["id"], row["text"], row["input_label"]) for row in table] == [
        (row["id"], row["text"], "gold") for row in rows
    ]
    expected = Predictor.load(runs["complaint"], "trainer=cpu")(unlabelled("complaint"))
    for row, labelled in zip(table, expected, strict=True):
        assert row["label"] == labelled.label
        assert float(row["probability"]) == pytest.approx(labelled.probability, abs=1e-5)
        assert float(row["p_complaint"]) == pytest.approx(labelled.probabilities["complaint"], abs=1e-5)
    assert progress.labelled == ROWS
    assert sum(progress.labels["complaint"].values()) == ROWS
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "out.csv"}


def tasks_file(tmp_path: Path, runs: dict[str, Path]) -> Path:
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps({family: os.path.relpath(folder, tmp_path) for family, folder in runs.items()}))
    return path


def test_a_file_of_many_tasks(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, tasks = mixed()
    named = [{"whose": task, **row} for row, task in zip(rows, tasks, strict=True)]
    named[5]["whose"] = "nobody"
    del named[7]["whose"]
    source = write_jsonl(tmp_path / "in.jsonl", named)
    common = (f"adapters={tasks_file(tmp_path, runs)}", f"input={source}", "task_column=whose", "bad_rows=skip")
    run(*common, f"output={tmp_path}/out.jsonl")
    found = read_jsonl(tmp_path / "out.jsonl")
    kept = [n for n in range(len(rows)) if n not in (5, 7)]
    expected = Predictor.load(runs, "trainer=cpu")([rows[n] for n in kept], [tasks[n] for n in kept])
    assert [(row["whose"], row["label"]) for row in found] == [(row.task, row.label) for row in expected]
    assert [row["text"] for row in found] == [rows[n]["text"] for n in kept]
    reasons = [row["reason"] for row in read_jsonl(tmp_path / "out.jsonl.bad.jsonl")]
    assert reasons[0] == "The row is of the unknown task 'nobody'; known tasks: blank, commits, complaint."
    assert reasons[1].startswith("The row names no task")
    out = capsys.readouterr().out
    assert f"{len(rows)} rows in" in out
    assert "  complaint: " in out
    assert "2 rows could not be labelled and are left out; they are listed in" in out


def test_standard_input_and_output(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Input:
        buffer = io.BytesIO(b"".join(json.dumps(row).encode() + b"\n" for row in unlabelled("commits")))

        @staticmethod
        def isatty() -> bool:
            return False

    monkeypatch.setattr(sys, "stdin", Input)
    run(f"adapter={runs['commits']}")
    shown = capsys.readouterr()
    found = [json.loads(line) for line in shown.out.splitlines()]
    expected = Predictor.load(runs["commits"], "trainer=cpu")(unlabelled("commits"))
    assert [row["label"] for row in found] == [row.label for row in expected]
    assert f"{ROWS} rows in" in shown.err


BAD_LINE = "this is no JSON"


def with_bad_rows(path: Path) -> Path:
    lines = [json.dumps(row) for row in unlabelled("commits")]
    lines[3] = BAD_LINE
    lines[20] = json.dumps({"text": "no claim"})
    path.write_text("\n".join(lines) + "\n")
    return path


def test_bad_rows_stop_the_run_or_are_listed(runs: dict[str, Path], tmp_path: Path) -> None:
    source = with_bad_rows(tmp_path / "in.jsonl")
    common = (f"adapter={runs['commits']}", f"input={source}", "eval_batch_size=4")
    undisturbed, stopped = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    run(*common, f"output={undisturbed}", "bad_rows=skip")
    listed = read_jsonl(tmp_path / "a.jsonl.bad.jsonl")
    assert [(row["row"], row["line"]) for row in listed] == [(4, 4), (21, 21)]
    assert listed[0]["reason"] == "row 4 is not valid JSON: Expecting value at column 1."
    assert listed[0]["content"] == BAD_LINE
    assert "row 21 cannot be rendered: UndefinedError: 'claim' is undefined" in listed[1]["reason"]
    assert listed[1]["content"] == {"text": "no claim"}
    assert len(read_jsonl(undisturbed)) == ROWS - 2
    with pytest.raises(
        UserError, match=r"in.jsonl, line 4: row 4 is not valid JSON.*bad_rows=skip the same command continues"
    ):
        run(*common, f"output={stopped}")
    assert not stopped.exists()
    run(*common, f"output={stopped}", "bad_rows=skip")
    assert stopped.read_bytes() == undisturbed.read_bytes()
    assert (tmp_path / "b.jsonl.bad.jsonl").read_bytes() == (tmp_path / "a.jsonl.bad.jsonl").read_bytes()


class KilledError(BaseException):
    """In place of a signal that cannot be caught."""


class Killer:
    """Ends the run at the n-th call of a function, before it, after it, or with half of what it writes."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, runs: dict[str, Path]) -> dict[str, Any]:
    """A file of bad rows among good ones, in windows of 11, and what an undisturbed run makes of it."""
    root = tmp_path_factory.mktemp("many")
    source = with_bad_rows(root / "in.jsonl")
    overrides = (f"adapter={runs['commits']}", f"input={source}", "bad_rows=skip", "eval_batch_size=11")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labelling, "WINDOW_BATCHES", 1)
        run(*overrides, f"output={root}/whole.csv")
    whole = [(root / name).read_bytes() for name in ("whole.csv", "whole.csv.bad.jsonl")]
    return {"overrides": overrides, "whole": whole}


@pytest.mark.ci
@pytest.mark.parametrize("moment", ["before", "torn", "after", "finish", "names", "state"])
def test_killed_and_started_again(
    moment: str, many: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every run is killed at its second write (or at its end), until one comes through: the file is the same."""
    monkeypatch.setattr(labelling, "WINDOW_BATCHES", 1)
    target = tmp_path / "out.csv"
    write, finish, remake = partial_file.PartialFile.write, partial_file.PartialFile.finish, os.replace
    killer = Killer(2)

    def dying_write(self: Any, text: str, sides: Any, state: Any) -> None:
        dies = killer()
        if dies and moment == "before":
            raise KilledError
        if dies and moment == "torn":
            for file in self._files.values():
                file.write(text.encode()[:7])
                file.flush()
            (tmp_path / ".out.csv.partial.json.0.tmp").touch()
            raise KilledError
        write(self, text, sides, state)
        if dies and moment == "after":
            raise KilledError

    def dying_finish(self: Any) -> None:
        if moment == "finish" and killer():
            raise KilledError
        finish(self)

    def dying_replace(source: Any, target: Any) -> None:
        remake(source, target)
        if (moment == "names" and str(target).endswith("out.csv")) or (
            moment == "state" and str(target).endswith("out.csv.bad.jsonl")
        ):
            monkeypatch.setattr(os, "replace", remake)
            raise KilledError

    if moment in ("before", "torn", "after"):
        monkeypatch.setattr(partial_file.PartialFile, "write", dying_write)
    monkeypatch.setattr(partial_file.PartialFile, "finish", dying_finish)
    if moment in ("names", "state"):
        monkeypatch.setattr(os, "replace", dying_replace)
    kills = 0
    for _ in range(40):
        killer.left = 2 if moment != "finish" or kills else 1
        try:
            progress = run(*many["overrides"], f"output={target}")
            break
        except KilledError:
            kills += 1
            assert moment in ("names", "state") or not target.exists(), "it is there when it is whole"
    assert kills >= 1
    assert (progress.labelled, progress.bad) == (ROWS - 2, 2)
    assert [target.read_bytes(), (tmp_path / "out.csv.bad.jsonl").read_bytes()] == many["whole"]
    assert {path.name for path in tmp_path.iterdir()} == {"out.csv", "out.csv.bad.jsonl"}


@pytest.mark.slow
def test_what_is_unfinished_is_not_continued_as_something_else(
    many: dict[str, Any], runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "WINDOW_BATCHES", 1)
    source = with_bad_rows(tmp_path / "in.jsonl")
    common = (f"adapter={runs['commits']}", f"input={source}", "eval_batch_size=11", f"output={tmp_path}/out.csv")
    with pytest.raises(UserError, match="line 4: row 4"):
        run(*common)
    with pytest.raises(UserError, match="line 21"):
        run(*common[:-1], f"output={tmp_path}/out.csv", "dataset.columns=[]", "resume=false", "bad_rows=stop",
            f"input={write_jsonl(tmp_path / 'b.jsonl', [*unlabelled('commits')[:20], {}])}")  # fmt: skip
    for change in ("eval_batch_size=5", "engine=plain", "score.norm=sum", f"adapter={runs['complaint']}"):
        with pytest.raises(UserError, match=r"is a part of another output \(different .*overwrite=true"):
            run(*[part for part in common if part.partition("=")[0] != change.partition("=")[0]], change)
    source.write_text(source.read_text() + "\n")
    with pytest.raises(UserError, match=r"is a part of another output \(different input\)"):
        run(*common, "bad_rows=skip")
    run(*common, "bad_rows=skip", "overwrite=true")
    with pytest.raises(UserError, match=r"output=.*out.csv already exists: choose another, or set overwrite=true"):
        run(*common)
    run(*common, "bad_rows=skip", "overwrite=true")


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    first = partial_file.PartialFile(tmp_path / "a.csv", [tmp_path / "a.bad"], {}, True, False)
    with pytest.raises(UserError, match="is being written by another process"):
        partial_file.PartialFile(tmp_path / "a.csv", [tmp_path / "a.bad"], {}, True, False)
    first.write("x\n", [""], {})
    first.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapters=/nowhere.json"], "adapters=/nowhere.json does not exist"),
        (["bad_rows=ignore"], r"Unknown value 'ignore' \(bad_rows=\)"),
        (["format=xml"], r"Unknown format 'xml' \(format=\)"),
        (["merge=maybe"], "merge='maybe' is neither true nor false"),
        (["input=/nowhere.csv"], "input=/nowhere.csv does not exist"),
        (["output=x.parquet"], r"Unknown file ending '.parquet' \(output=x.parquet\)"),
        (["adapter=/nowhere", "adapters=x.json"], "give one of them"),
        (["merge=true", "+experiment=demo", "model=tiny", "input=INPUT"], "but there is none: set adapter="),
        (["adapter=/nowhere", "input=INPUT"], "adapter=/nowhere does not exist"),
        (["adapter=RUN", "input=INPUT", "score.method=channel"], "score.method=channel is for evaluation"),
        (["adapter=RUN", "input=INPUT", "steps=3"], "steps= belongs to training"),
        (["adapter=RUN", "input=INPUT", "output=INPUT", "overwrite=true"], "would overwrite the input"),
        (["adapters=TASKS", "input=INPUT", "trainer.devices=none"], "trainer.devices=none is neither auto nor"),
        (["adapters=TASKS", "input=INPUT", "merge=true"], "folds one task's vectors into the model"),
        (["adapters=EMPTY", "input=INPUT"], "does not map task names to folders"),
        (["adapters=WRONG", "input=INPUT"], "the folder nowhere of task 'a' does not exist"),
        (["+experiment=demo", "dataset=mini_mixture", "model=tiny", "input=INPUT"], "is a mixture of data sets"),
    ],
)
def test_what_cannot_work(overrides: list[str], message: str, runs: dict[str, Path], tmp_path: Path) -> None:
    names = {
        "INPUT": write_jsonl(tmp_path / "in.jsonl", unlabelled("commits")),
        "RUN": runs["commits"],
        "TASKS": tasks_file(tmp_path, runs),
        "EMPTY": write_jsonl(tmp_path / "empty.json", [{}]),
        "WRONG": write_jsonl(tmp_path / "wrong.json", [{"a": "nowhere"}]),
    }
    before = sorted(tmp_path.iterdir())
    filled = [
        override.partition("=")[0] + "=" + str(names.get(v := override.partition("=")[2], v)) for override in overrides
    ]
    with pytest.raises(UserError, match=message):
        run(f"output={tmp_path}/out.csv", *filled)
    assert sorted(tmp_path.iterdir()) == before


def test_a_predictor_is_on_one_device(runs: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"set trainer.devices=1, not 2. For several, use the command"):
        Predictor.load(runs["commits"], "trainer.devices=2")


def test_windows_are_bounded_in_rows_and_in_characters() -> None:
    def rows(texts: Sequence[str]) -> Iterator[StreamedRow]:
        for number, text in enumerate(texts, start=1):
            asked.append(number)
            yield StreamedRow(StreamPosition(number, number, number), {"text": text})

    asked: list[int] = []
    first = next(windows(rows(["x"] * 1000), 16, 10**6))
    assert (len(first), len(asked)) == (16, 16), "nothing is read ahead of what is worked on"
    sizes = [len(window) for window in windows(rows(["x" * 40] * 10), 16, 100)]
    assert sizes == [3, 3, 3, 1]


def test_columns_that_a_table_has_no_place_for_are_named() -> None:
    labelled = Labelled("t", "yes", 0.75, {"no": 0.25, "yes": 0.75})
    results = ResultRows("csv", None, ("no", "yes"))
    text = results.text([{"a": 1}, {"a": None, "b": [1]}], [labelled, labelled], first=True)
    assert text == "a,label,probability,p_no,p_yes\n1,yes,0.75,0.25,0.75\n,yes,0.75,0.25,0.75\n"
    assert results.left_out == {"b"}
    rows = ResultRows("jsonl", None, ("no", "yes")).text([{"b": [1], "label": 3}], [labelled], first=True)
    assert json.loads(rows) == {
        "b": [1], "input_label": 3, "label": "yes", "probability": 0.75, "probabilities": {"no": 0.25, "yes": 0.75}
    }  # fmt: skip


@pytest.mark.drill
@pytest.mark.slow
def test_killed_by_a_signal_at_random_moments(runs: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"number": n, **row} for n, row in enumerate(unlabelled("commits") * 80)]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    common = ["tfew.predict", f"adapter={runs['commits']}", f"input={source}", "trainer=cpu", "eval_batch_size=4"]
    told = [sys.executable, "-m", *common, f"output={tmp_path}/whole.csv"]
    subprocess.run(told, check=True, capture_output=True)  # of another process than those that are forked
    whole, output, state = (tmp_path / name for name in ("whole.csv", "out.csv", "out.csv.partial.json"))

    def sure() -> bytes:
        try:
            return state.read_bytes()
        except FileNotFoundError:
            return b""

    source_of_moments = random.Random(0)
    unfinished = 0
    for _ in range(8):
        before = sure()
        process = start_command(*common, f"output={output}")
        while process.poll() is None and sure() == before:
            time.sleep(0.005)
        time.sleep(source_of_moments.random() * 0.5)
        process.kill()
        process.wait()
        if output.exists():
            break
        unfinished += 1
    else:
        run_command(*common, f"output={output}", check=True)
    assert unfinished >= 3
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(("path", "shown"), [("~/weights", "{home}/weights"), ("123", "123")])
def test_a_model_in_the_home_folder_or_named_by_a_number(
    path: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are looked up, and neither is there to be loaded."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "in.csv").write_text("premise,hypothesis\na,b\n")
    files = (f"input={tmp_path}/in.csv", f"output={tmp_path}/out.csv")
    overrides = ["+experiment=rte", f"model.path={path}", *files]
    with pytest.raises(UserError) as wrong:
        predict(compose(*overrides, config_name="predict"), overrides)
    assert str(wrong.value).startswith(f"model.path={shown.format(home=tmp_path)} cannot be loaded")
