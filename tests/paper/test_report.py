"""`report.html`: complete and safe whatever the runs' names, with the same numbers as its source files."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.paper.test_table import in_context, record
from tfew.config import compose
from tfew.paper.__main__ import paper
from tfew.paper.answers import Answers
from tfew.paper.curves import median_curve, read_curve
from tfew.paper.report import make_report
from tfew.paper.runs import Run, load_runs
from tfew.runs.records import RunRecord, save_record

VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = '<script>alert("x")</script>&\'$\\frac{1}{0}$'


class Page(HTMLParser):
    """Raises where tags are not closed in order; keeps what a browser would show, load, link to and run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.cells: list[str] = []
        self.text: list[str] = []
        self.styles: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], (tag, self.open[-3:], self.getpos())
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.styles.append(data)
            return
        self.text.append(data)
        if self.open and {"td", "th"} & set(self.open):
            self.cells[-1] += data

    @property
    def shown(self) -> str:
        return " ".join("".join(self.text).split())


def check_harmless(text: str) -> Page:
    """Well-formed, and nothing that loads or runs anything."""
    page = Page(text)
    assert not {"script", "link", "iframe", "img", "object", "embed", "base", "form"} & page.tags.keys()
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert value.startswith("#"), (tag, name, value)
            assert value[1:] in ids
        for target in re.findall(r"url\((.*?)\)", value):
            assert target[1:] in ids
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert not any(word in style for style in page.styles for word in ("@import", "url(", "http"))
    return page


def answer(dataset: str, template: str, idx: int, label: int | None, scores: Sequence[float]) -> str:
    predicted = scores.index(max(scores))
    row = {"dataset": dataset, "template": template, "idx": idx, "label": label, "predicted": predicted}
    return json.dumps({**row, "scores": scores, "tokens": [1] * len(scores)}) + "\n"


def save(folder: Path, run: RunRecord, answers: str | None = None, losses: Sequence[float] = ()) -> None:
    save_record(folder / run.name.replace("/", "_"), RunRecord(**{**vars(run), "counts": {"rows": 3, "prompts": 6}}))
    if answers is not None:
        (folder / run.name.replace("/", "_") / "predictions.jsonl").write_text(answers)
    if losses:
        lines = [f"{step},{loss},9" for step, loss in enumerate(losses, start=1)]
        (folder / run.name.replace("/", "_") / "metrics.csv").write_text(
            "\n".join(["step,lm_loss,loss", *lines]) + "\n"
        )


def chance(run: RunRecord, value: float = 0.5) -> RunRecord:
    run.metrics.update(chance=value, accuracy=0.5)
    return run


@pytest.mark.slow
def test_a_real_run_is_told_as_its_files_have_it(train_tiny: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = train_tiny("few_shot_seed=0", runs=runs)
    train_tiny("few_shot_seed=1", "method=lora", runs=runs)
    assert paper(compose("report=true", f"runs={runs}", config_name="paper")) == runs / "report.html"
    page = check_harmless((runs / "report.html").read_text())
    lines = [json.loads(line) for line in (runs / first.name / "predictions.jsonl").read_text().splitlines()]
    counts = Counter((line["label"], line["predicted"]) for line in lines)
    right = sum(count for (label, predicted), count in counts.items() if label == predicted)
    assert f"ia3 · {len(lines)} answers, {100 * right / len(lines):.0f} % right" in page.shown
    assert f"{100 * first.metrics['accuracy']:.1f} ({100 * first.metrics['accuracy_iqr']:.1f}) [1]" in page.cells
    for template, scores in first.metrics["templates"].items():
        assert template in page.cells
        assert f"{100 * scores['accuracy']:.1f}" in page.cells
    for shown in (first.name, "few-shot seeds0, 1", "torch " + first.versions["torch"], "Table 4: Methods"):
        assert shown in page.shown
    # the rows come from the generator again: the text is what the model was shown
    text = (runs / "report.html").read_text()
    quoted = re.findall(r"<blockquote>(.*?)</blockquote>", text, re.DOTALL)
    assert len(quoted) == 5
    paper(compose("report=true", "texts=false", f"runs={runs}", f"output={tmp_path}", config_name="paper"))
    assert "<blockquote>" not in (tmp_path / "report.html").read_text()
    assert "Texts are left out (texts=false)." in (tmp_path / "report.html").read_text()


def test_texts_are_those_that_were_ranked(train_tiny: Any, tmp_path: Path) -> None:
    from tfew.data.dataset import DatasetSpec
    from tfew.data.sources import load_split
    from tfew.data.templates import load_templates
    from tfew.paper.texts import render_prompts

    run = train_tiny(runs=tmp_path)
    spec = DatasetSpec.from_config(run.config["dataset"])
    template = load_templates(spec.prompts)[1]
    wanted = [(7, template.name), (3, template.name), (3, "no such template"), (10**6, template.name)]
    found = render_prompts(run, "commits", wanted)
    examples = load_split(spec, "eval", None)
    assert found == {(idx, template.name): template.render("commits", examples[idx]) for idx in (7, 3)}
    assert render_prompts(run, "another", wanted) == {}
    from_the_hub = {**run.config, "dataset": {**run.config["dataset"], "generator": None}}
    assert render_prompts(RunRecord(**{**vars(run), "config": from_the_hub}), "commits", wanted) == {}
    # labels that are not those of the data any more: the rows stand there without their text
    lines = [json.loads(line) for line in (tmp_path / run.name / "predictions.jsonl").read_text().splitlines()]
    turned = [{**line, "label": (line["label"] + 1) % len(line["scores"])} for line in lines]
    (tmp_path / run.name / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in turned))
    assert "predictions.jsonl is damaged or has been changed" in make_report(load_runs(tmp_path))
    save_record(tmp_path / run.name, replace(run, files={}))  # as older versions left it
    page = make_report(load_runs(tmp_path))
    assert "<blockquote>" not in page
    assert "cannot be shown as text" in page


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """As data set, model, template, label, run and method; in tables, pictures, attributes and messages."""
    for seed in (0, 1):
        named = {"model": f"m{HOSTILE}", "method": f"y{HOSTILE}", "loss": HOSTILE}
        labels = {"dataset": {"label": {"names": [HOSTILE, [HOSTILE, "b"]]}}}
        run = chance(record(f"d{HOSTILE}", seed, [50.0, 60.0], **named, config=labels))
        run.metrics["templates"] = {f"t{HOSTILE}": {"accuracy": 0.5}, "]]>--><": {"accuracy": 0.6}}
        answers = answer(f"d{HOSTILE}", f"t{HOSTILE}", 0, 0, [-2.0, -1.0])
        save(tmp_path, RunRecord(**{**vars(run), "name": f"n{seed}{HOSTILE}"}), answers, [3.0, 2.0, 1.0])
    broken = RunRecord(**{**vars(run), "name": f"broken{HOSTILE}"})
    save(tmp_path, broken, '{"label": ' + HOSTILE)
    text = make_report(load_runs(tmp_path))
    page = check_harmless(text)
    assert "<script" not in text
    for shown in ("d", "m", "y", "t", "n0", "broken"):
        assert shown + HOSTILE in page.shown
    assert f"t{HOSTILE}" in page.cells
    titles = [value for _, name, value in page.attributes if name == "title"]
    assert titles == [HOSTILE] * 4
    assert page.tags["svg"] == 2, "the accuracies and the training"
    assert f"Training loss on d{HOSTILE}, 2 runs" in [
        value for _, name, value in page.attributes if name == "aria-label"
    ]


def test_runs_without_predictions_are_a_report_too(tmp_path: Path) -> None:
    for seed in (0, 1):
        save(tmp_path, chance(record("rte", seed, [60.0 + seed])))
    page = check_harmless(make_report(load_runs(tmp_path)))
    assert "Not counted, since predictions.jsonl is not there: rte-t0_3b-ia3-tfew-False-0, rte-" in page.shown
    assert "60.5 (0.5) [2]" in page.cells
    assert "Hardest rows" not in page.shown
    four = next(cell for cell in page.cells if cell.startswith("60.5 (0.5) [2]") and "78.0" in cell)
    assert four == "60.5 (0.5) [2]78.0 (2.5) -17.5"


def test_a_folder_of_in_context_runs(tmp_path: Path) -> None:
    """Several orders of one seed make no Table 9, which is said, and a picture of their spread."""
    for order in (0, 1, 2):
        save(tmp_path, chance(in_context(0, order, 50 + 5 * order, model="t5_lm_adapt_xxl")))
    save(tmp_path, chance(record("rte", 0, [70.0], model="t5_lm_adapt_xxl")))
    page = check_harmless(make_report(load_runs(tmp_path)))
    assert "Not made: Table 9 of t5_lm_adapt_xxl: Two runs of one cell have the few-shot seed 0" in page.shown
    assert "In-context learning over orders of shots" in page.shown
    line = page.cells.index("in context, ensemble")
    assert page.cells[line + 1 : line + 10] == ["3", "3", "55.0", "5.0", "50.0", "60.0", "10.0", "–", "–"]


def test_a_mixture_is_told_without_templates(tmp_path: Path) -> None:
    run = record("mix", 0, [])
    run.metrics.clear()
    run.metrics.update(members={"a": {}}, accuracy=0.625, chance=0.5)
    save(tmp_path, run, answer("a", "t", 0, 1, [0.0, -1.0]))
    nothing = record("mix", 1, [], method="lora")
    nothing.metrics.clear()
    nothing.metrics.update(final_loss=1.0)
    save(tmp_path, nothing)
    page = check_harmless(make_report(load_runs(tmp_path)))
    assert "62.5 (0.0) [1]" in page.cells
    assert "ia3 · 1 answer, 0 % right" in page.shown


def test_confusions_and_the_hardest_rows(tmp_path: Path) -> None:
    """Row 0 always right, row 1 wrong in half, rows 2 and 3 always wrong, 3 by more."""
    answers = Answers()
    for run, scores in (("a", (-1.0, -5.0)), ("b", (-5.0, -1.0))):
        path = tmp_path / f"{run}.jsonl"
        path.write_text(
            answer("x", "t", 0, 0, [0.0, -1.0]) + answer("x", "t", 1, 0, scores) + answer("x", "t", 2, 0, [-2.0, -1.0])
            + answer("x", "t", 3, 0, [-9.0, -1.0]) + answer("x", "t", 4, None, [-9.0, -1.0])
        )  # fmt: skip
        answers.add(run, run, path)
    assert answers.confusions["x"]["a"] == {(0, 0): 2, (0, 1): 2}
    assert answers.confusions["x"]["b"] == {(0, 0): 1, (0, 1): 3}
    hardest = answers.hardest("x", 10)
    assert [(idx, row.wrong, row.total) for idx, row in hardest] == [(3, 2, 2), (2, 2, 2), (1, 1, 2)]
    assert hardest[0][1].worst is not None
    assert (hardest[0][1].worst.margin, hardest[2][1].wrong_by_variant) == (8.0, {"b": 1})
    (tmp_path / "cut.jsonl").write_text(answer("x", "t", 5, 0, [0.0, -1.0]) + '{"dataset": "x"')
    answers.add("a", "cut", tmp_path / "cut.jsonl")
    answers.add("a", "gone", tmp_path / "gone.jsonl")
    assert "cannot be read (JSONDecodeError" in answers.unreadable["cut"]
    assert answers.unreadable["gone"] == "gone.jsonl is not there"
    assert 5 not in answers.rows["x"], "a file counts as a whole or not at all"
    assert answers.runs == {"x": 2}


def test_many_classes_are_told_by_their_commonest_mistakes(tmp_path: Path) -> None:
    scores = [[float(i == place) for i in range(77)] for place in range(77)]
    answers = "".join(answer("banks", "t", i, i, scores[i]) for i in range(77))
    answers += "".join(answer("banks", "t", 100 + i, 5, scores[9]) for i in range(4))
    labels = {"dataset": {"label": {"names": [f"label {i}" for i in range(77)]}}}
    save(tmp_path, chance(record("banks", 0, [95.0], config=labels), 1 / 77), answers)
    page = check_harmless(make_report(load_runs(tmp_path)))
    place = page.cells.index("label 5")
    assert page.cells[place : place + 3] == ["label 5", "label 9", "4"]
    assert page.tags["td"] < 200


def test_curves_are_means_over_windows_and_medians_over_runs(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,lm_loss\n" + "".join(f"{step},{step * 2}\n" for step in range(1, 401)))
    curve = read_curve(path)
    assert len(curve) == 40
    assert curve[0] == (5.5, 11.0)
    assert median_curve([curve, [(5.5, 1.0)], [(5.5, 12.0)]])[1][0] == 11.0
    path.write_text("step,loss\n1,3.5\n2,\n3,nan\n4,0\n")
    assert read_curve(path) == [(1.0, 3.5), (4.0, 1e-6)]
    path.write_text("step,lm_loss\n1,many\n")
    assert read_curve(path) == read_curve(tmp_path / "gone.csv") == []


def test_a_report_reads_each_file_once_and_needs_no_torch(tmp_path: Path) -> None:
    """Made in a process of its own from a copied folder; what it loads is listed."""
    import subprocess
    import sys

    save(tmp_path / "runs", chance(record("rte", 0, [60.0])), answer("rte", "template 0", 0, 1, [0.0, -1.0]))
    shutil.copytree(tmp_path / "runs", tmp_path / "elsewhere")
    code = (
        "import sys; from pathlib import Path; from tfew.paper.report import make_report; from tfew.paper.runs import"
        f" load_runs; make_report(load_runs(Path({str(tmp_path / 'elsewhere')!r})));"
        " print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_folder_of_a_run_may_be_renamed(tmp_path: Path) -> None:
    save(tmp_path, chance(record("rte", 0, [60.0])), answer("rte", "template 0", 0, 1, [0.0, -1.0]))
    next(tmp_path.iterdir()).rename(tmp_path / "renamed")
    (run,) = load_runs(tmp_path)
    assert run == Run(run.record, tmp_path / "renamed")
    assert "1 answer, 0 % right" in check_harmless(make_report([run])).shown
