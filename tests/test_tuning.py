"""`tune=true`: the settings that are tried, chosen, trained and recorded; and resuming of an interrupted run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.test_own_tables import ROWS, trained
from tests.test_train import folder
from tfew.config import compose, resolved
from tfew.errors import UserError
from tfew.ranking import tuning
from tfew.runs.identity import identity
from tfew.runs.records import RunRecord
from tfew.runs.run_folder import saved_settings
from tfew.train import train
from tfew.training import fit as fitting

MULTIPLES = ((1, 1), (1, 3), (2, 1))  # fewer than there are: each is a training


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tuning") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module")
def run(table: Path) -> RunRecord:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "MULTIPLES", MULTIPLES)
        return trained(table, table.parent / "runs", "folds=2", "validation=null", "tune=true", "steps=4")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "predictions.jsonl").read_text().splitlines()]


def accuracy(predictions: Sequence[dict[str, Any]]) -> float:
    return sum(p["label"] == p["predicted"] for p in predictions) / len(predictions)


def test_the_best_setting_is_trained_and_recorded(run: RunRecord) -> None:
    found, place = run.metrics["tuning"], folder(run)
    assert [(tried["steps"], tried["lr"]) for tried in found["settings"]] == [(4, 0.02), (4, 0.06), (8, 0.02)]
    each = [lines(place / f"setting_{number}") for number in range(3)]
    assert [tried["value"] for tried in found["settings"]] == pytest.approx([accuracy(p) for p in each])
    chosen = found["chosen"]
    assert found["value"] == max(map(accuracy, each)) == run.metrics["accuracy"]
    assert lines(place) == each[chosen], "what is held out in the run is that of the chosen setting"
    by_others = {}
    for fold in (0, 1):
        others = [[p for p in predictions if p["fold"] != fold] for predictions in each]
        best = max(range(3), key=lambda n: (accuracy(others[n]), -_loss(others[n])))
        by_others[fold] = [p for p in each[best] if p["fold"] == fold]
    assert found["nested_value"] == pytest.approx(accuracy(by_others[0] + by_others[1]))
    asked, kept = found["settings"][0], found["settings"][chosen]
    for steps, lr in (
        (run.config["steps"], run.config["optimizer"]["lr"]),
        (run.config["method"]["steps"], run.config["method"]["lr"]),
        tuple(json.loads((place / "adapter.json").read_text())["method"][key] for key in ("steps", "lr")),
        (len((place / "metrics.csv").read_text().splitlines()) - 1, kept["lr"]),
    ):
        assert (steps, lr) == (kept["steps"], kept["lr"])
    saved = saved_settings(place)
    assert saved is not None
    assert (saved["steps"], saved["optimizer"]["lr"]) == (asked["steps"], asked["lr"]), "what the run is found by"


def _loss(predictions: Sequence[dict[str, Any]]) -> float:
    import numpy as np

    return float(np.mean([np.logaddexp.reduce(p["scores"]) - p["scores"][p["label"]] for p in predictions]))


def test_it_is_found_finished_and_its_page_says_what_was_tried(run: RunRecord, table: Path) -> None:
    again = trained(table, table.parent / "runs", "folds=2", "validation=null", "tune=true", "steps=4")
    assert again.metrics == json.loads(json.dumps(run.metrics))
    page = (folder(run) / "report.html").read_text()
    assert "Settings tried" in page
    assert "chosen on all folds but one" in page


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_fold_it_was_in(
    run: RunRecord, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "MULTIPLES", MULTIPLES)
    settings = ("folds=2", "validation=null", "tune=true", "steps=4", "resume=true")
    fit, calls, stop_at = fitting.fit, list[Path](), 4

    def counted(*arguments: Any) -> Any:
        calls.append(arguments[5])
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return fit(*arguments)

    monkeypatch.setattr(fitting, "fit", counted)
    monkeypatch.setattr("tfew.training.folds_at_once.fit", counted)
    with pytest.raises(KeyboardInterrupt):
        trained(table, tmp_path, *settings)
    assert calls[-1].relative_to(tmp_path).parts[1:] == ("setting_1", "fold_1")
    calls.clear()
    stop_at = 0
    resumed = trained(table, tmp_path, *settings)
    assert len(calls) == 1 + 2 + 1, "the fold it was in, the last setting's two, and the adapter that is kept"
    assert resumed.metrics["tuning"] == run.metrics["tuning"]


@pytest.mark.slow
def test_of_a_share_that_is_held_out(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "MULTIPLES", MULTIPLES[:2])
    record = trained(table, tmp_path, "tune=true")
    found = record.metrics["tuning"]
    each = [lines(folder(record) / f"setting_{number}") for number in range(2)]
    assert found["value"] == max(map(accuracy, each)) == record.metrics["accuracy"]
    assert [p["predicted"] for p in lines(folder(record))] == [p["predicted"] for p in each[found["chosen"]]]
    assert record.config["optimizer"]["lr"] == found["settings"][found["chosen"]]["lr"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("+experiment=demo",), r"those of commits are for reporting: it is for rows of your own, or set folds=5"),
        (("+experiment=local_mini", "folds=null", "label=label"), r"none are: set folds=5 or validation=0\.25"),
        (
            ("+experiment=local_mini", "folds=null", "validation=0.1", "label=label"),
            r"at least 5 held-out rows: a larger",
        ),
    ],
)
def test_what_cannot_be_tuned(settings: tuple[str, ...], message: str, table: Path, tmp_path: Path) -> None:
    rows = [f"data={table}"] if "label=label" in settings else []
    with pytest.raises(UserError, match=message):
        train(compose(*settings, *rows, "tune=true", f"runs={tmp_path}/runs"))
    assert not (tmp_path / "runs").exists()


def test_runs_without_it_are_called_as_before() -> None:
    assert "tune" not in identity(resolved(compose("+experiment=demo")))
    assert identity(resolved(compose("+experiment=demo", "tune=true")))["tune"] is True
