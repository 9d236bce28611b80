"""The page of one run: the numbers of its files, safe for any texts in rows and labels, and no failure of a run."""

import ast
import json
import logging
import math
import re
import shlex
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import chromium, program
from tests.paper.test_report import check_harmless
from tests.test_own_tables import ROWS, trained
from tests.test_predict import read_csv
from tests.test_predict import run as predict
from tests.test_train import folder
from tfew.checks.finding import Finding
from tfew.files.checksums import file_sha256
from tfew.ranking.per_label_metrics import SURE, wilson_interval
from tfew.report import task_report
from tfew.report.advice import advice
from tfew.report.hardest_rows import hardest_rows
from tfew.report.task_report import make_page
from tfew.runs.records import RunRecord
from tfew.runs.run_folder import REPORT_FILE, is_finished
from tfew.schema import Example, Prediction, Prompt
from tfew.task import Task

HOSTILE = '<script>document.title="broken"</script><img src=x onerror="document.title=1">&"\'{{ 7 * 7 }}'
RTL = "\N{RIGHT-TO-LEFT OVERRIDE}drawkcab \u05e9\u05dc\u05d5\u05dd"
LONG = "x" * 10_000
HALF = "half \ud83d of a pair, \0 and \x1b[31m"
NAMES = (f"good {HOSTILE}", RTL, LONG, HALF)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    root = tmp_path_factory.mktemp("report")
    lines = [{**row, "text": f"{row['text']} {HOSTILE}"} for row in ROWS]
    (root / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return trained(root / "rows.jsonl", root / "runs", "folds=2", "validation=null")


@pytest.fixture(scope="module")
def page(run: RunRecord) -> str:
    return (folder(run) / REPORT_FILE).read_text(encoding="utf-8")


def predictions_of(run: RunRecord) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder(run) / "predictions.jsonl").read_text().splitlines()]


def softmax(scores: list[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp((score - max(scores)) / temperature) for score in scores]
    return [weight / sum(weights) for weight in weights]


def test_it_says_what_the_files_say(run: RunRecord, page: str) -> None:
    shown = check_harmless(page).shown
    low, high = run.metrics["accuracy_interval"]
    assert f"95 % interval: {100 * low:.1f} % to {100 * high:.1f} %" in shown
    assert f"{100 * run.metrics['accuracy']:.1f} %" in shown
    assert f"Expected calibration error {run.metrics['calibration']['ece']:.3f}" in shown
    assert f"tfew predict adapter={folder(run)} input=new.csv" in unescape(page)
    for name, score in run.metrics["classes"].items():
        cells = [f"{100 * score[key]:.1f}" for key in ("precision", "recall", "f1")] + [str(score["rows"])]
        row = re.escape(f'<tr><th scope="row" dir="auto">{name}</th>') + "".join(f"<td>{cell}</td>" for cell in cells)
        assert re.search(row, page), name
    matrix = [[int(cell) for cell in re.findall(r"--v: \d+\">(\d+)</td>", line)] for line in page.splitlines()]
    assert [counts for counts in matrix if counts] == run.metrics["confusion"]


def test_its_commands_work(run: RunRecord, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, program = (unescape(text) for text in re.findall("<pre>(.*?)</pre>", page, re.DOTALL))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new.csv").write_text("text\nmy hat looks nasty\n")
    predict(*shlex.split(command)[2:])
    assert read_csv(tmp_path / "labels.csv")[0]["label"] in run.metrics["classes"]
    assert ast.literal_eval(program[program.index("[{") : program.index("}]") + 2]) == [{"text": "..."}]
    assert repr(str(folder(run))) in program


def test_columns_are_called_as_in_the_table(run: RunRecord) -> None:
    dataset = {**run.config["dataset"], "columns": ["review_text"], "rename": {"Review (text)": "review_text"}}
    record = replace(run, config={**run.config, "dataset": dataset})
    page = check_harmless(make_page(record, [], None))
    assert "A table with the column Review (text):" in page.shown
    assert "predictor([{'Review (text)': '...'}])" in page.shown


def test_the_diagram_is_what_the_calibration_error_is_made_of(run: RunRecord, page: str) -> None:
    dots = re.findall(r"<title>as they are: (\d+) rows?, (\d+) % sure, (\d+) % right</title>", page)
    rows = sum(int(dot[0]) for dot in dots)
    assert rows == run.counts["rows"]
    error = sum(int(count) * abs(int(right) - int(sure)) / 100 for count, sure, right in dots) / rows
    assert error == pytest.approx(run.metrics["calibration"]["ece"], abs=0.01)  # they are whole percents


def test_the_hardest_rows_are_those_of_the_least_probable_labels(run: RunRecord, page: str) -> None:
    lines = predictions_of(run)
    wrong = sorted(
        (softmax(line["scores"])[line["label"]], line["idx"]) for line in lines if line["predicted"] != line["label"]
    )
    numbers = [int(number) for number in re.findall(r"<strong>row (\d+)</strong>", page)]
    assert len(wrong) >= 3, "two steps teach little"
    assert numbers == [idx + 1 for _, idx in wrong][:10]
    assert ROWS[numbers[0] - 1]["text"] in page


def test_texts_are_on_the_page_alone(run: RunRecord, page: str) -> None:
    for path in folder(run).rglob("*"):
        if path.is_file() and path.suffix in (".json", ".jsonl", ".yaml", ".csv"):
            assert "by the beach" not in path.read_text(), path
    assert "by the beach" in page
    assert run.files[REPORT_FILE] == file_sha256(folder(run) / REPORT_FILE)


def test_a_page_that_cannot_be_made_does_not_lose_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> str:
        raise RuntimeError("no ink")

    monkeypatch.setattr(task_report, "make_page", broken)
    monkeypatch.setattr(logging.getLogger("tfew"), "propagate", True)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    record = trained(tmp_path / "rows.jsonl", tmp_path / "runs")
    assert is_finished(folder(record))
    assert REPORT_FILE not in record.files
    assert not (folder(record) / REPORT_FILE).exists()
    assert f"{REPORT_FILE} could not be made (RuntimeError: no ink); the run itself is complete." in caplog.text


def hostile(run: RunRecord) -> tuple[RunRecord, Task, list[Prediction]]:
    """Four labels and four rows that are all wrong."""
    texts = [HOSTILE, RTL, LONG, HALF]
    prompts = [
        [Prompt("d", "t", row, f"say {text}", NAMES, row, ((4, 4 + len(text)),))] for row, text in enumerate(texts)
    ]
    examples = [Example(row, {"text": text}, row) for row, text in enumerate(texts)]
    scores = [tuple(-1.0 if place == (row + 1) % 4 else -3.0 for place in range(4)) for row in range(4)]
    predictions = [Prediction("d", "t", row, row, (row + 1) % 4, scores[row], (1,) * 4, fold=0) for row in range(4)]
    classes = {name: {"precision": 0.0, "recall": 0.0, "f1": 0.0, "rows": 1, "predicted": 1} for name in NAMES}
    confusion = [[int(predicted == (row + 1) % 4) for predicted in range(4)] for row in range(4)]
    gain = {"metric": "balanced_accuracy", "value": 0.121, "low": 0.064, "high": 0.179}
    metrics = {
        **run.metrics, "accuracy": 0.0, "accuracy_interval": [0.0, 0.49], "balanced_accuracy": 0.0, "classes": classes,
        "balanced_accuracy_interval": [0.0, 0.3], "confusion": confusion, "leading_metric": "balanced_accuracy",
        "baselines": {HOSTILE: {
            "accuracy": 0.25, "balanced_accuracy": 0.25, "f1_macro": 0.1, "gain": gain}},
    }  # fmt: skip
    config = {**run.config, "data": f"/rows {HOSTILE}", "run_dir": f"/tmp/a b{HOSTILE}",
              "dataset": {**run.config["dataset"], "columns": [HOSTILE, RTL]}}  # fmt: skip
    record = replace(run, dataset=f"d{HOSTILE}{HALF}", counts={"rows": 4, "prompts": 4}, metrics=metrics, config=config)
    return record, Task("d", examples, prompts, 0, classes=NAMES), predictions


def test_hostile_texts_stay_text(run: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # not needed
    record, task, predictions = hostile(run)
    text = make_page(record, predictions, task, [Finding(False, f"found {HOSTILE}", LONG)])
    (tmp_path / "page.html").write_bytes(text.encode())  # half a surrogate pair could not be
    page = check_harmless(text)
    assert page.tags["blockquote"] == 5, "the first row as it is shown, and four hard ones"
    assert f"good {HOSTILE}" in page.shown
    assert f"found {HOSTILE}" in page.shown
    assert "x" * 601 not in text
    assert "9,400 more characters" in page.shown
    assert not re.search("[\0-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
    assert "\u05e9\u05dc\u05d5\u05dd" in page.shown, "Hebrew stays"
    assert "gain of this run in points of balanced accuracy (95 % interval)" in page.shown
    assert "+12.1 (6.4 to 17.9)" in page.shown
    assert "Better than the" in page.shown


@pytest.mark.slow
@pytest.mark.skipif(program() is None, reason="there is no Chromium here (Debian: apt-get install chromium)")
def test_a_browser_shows_it_without_running_anything(run: RunRecord, tmp_path: Path) -> None:
    record, task, predictions = hostile(run)
    path = tmp_path / "page.html"
    path.write_text(make_page(record, predictions, task, []), encoding="utf-8")
    with chromium(tmp_path) as browser:
        browser.look(375, "dark", phone=True)
        browser.call("Page.navigate", url=path.as_uri())
        browser.wait_for("document.querySelector('footer') !== null")
        assert browser.evaluate("document.documentElement.scrollWidth") == 375
        assert browser.evaluate("document.title").startswith("d<script>")
        assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
        assert browser.evaluate("performance.getEntriesByType('resource').length") == 0
        assert browser.logged == []


def test_a_page_without_anything_held_out(run: RunRecord) -> None:
    record = replace(run, metrics={"final_loss": 1.0}, counts={})
    page = check_harmless(make_page(record, [], None, []))
    assert "No rows were held out, so the accuracy is unknown" in page.shown
    assert "tfew predict" in page.shown


def test_rows_with_choices_of_their_own() -> None:
    prompts = [[Prompt("d", "t", 7, "which?", ("Paris", "Rome"), 1)]]
    task = Task("d", [Example(7, {}, 1)], prompts, 0)
    (row,) = hardest_rows(task, [Prediction("d", "t", 7, 1, 0, (0.0, math.log(0.25)), (1, 1))], 1.0)
    assert (row.number, row.text, row.given, row.predicted, row.fold) == (8, "which?", "Rome", "Paris", None)
    assert row.given_probability == pytest.approx(0.2)
    assert row.loss == pytest.approx(math.log(5))


def test_the_rows_that_are_advised_bring_the_interval(run: RunRecord) -> None:
    metrics = {"accuracy": 0.8, "accuracy_interval": wilson_interval(40, 50), "calibration": {"rows": 50}}
    (sentence, _) = advice(metrics, {"rows": 50}, {}, 10**8)
    rows = int(re.search(r"about (\d+) by ±5", sentence)[1])
    assert rows == pytest.approx(0.8 * 0.2 * (SURE / 0.05) ** 2, rel=0.1)
    low, high = wilson_interval(round(0.8 * rows), rows)
    assert (high - low) / 2 == pytest.approx(0.05, abs=0.003)
