"""A finished run of `python -m tfew.train +experiment=demo`, made once and stored: old runs stay usable."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tfew.config import compose
from tfew.evaluate import evaluate
from tfew.mini_t0.world import generate
from tfew.models.adapters_io import adapter_description, load_weights
from tfew.predict import predict
from tfew.prediction.saved_run import with_run_settings
from tfew.runs.records import load_record
from tfew.runs.run_folder import check_recorded, finished_settings
from tfew.train import train

NAME = "demo_commits-mini_t0-ia3-tfew-s0-fa83edaa"
FROZEN = Path(__file__).parents[1] / "frozen" / NAME


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return shutil.copytree(FROZEN, tmp_path / "runs" / NAME)


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def by_row(folder: Path) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for prediction in predictions(folder):
        found.setdefault(prediction["idx"], []).append(prediction)
    return found


def test_it_loads() -> None:
    record = load_record(FROZEN)
    assert (record.name, record.metrics["accuracy"], record.counts["rows"]) == (NAME, pytest.approx(0.75667, abs=1e-5), 300)  # fmt: skip  # noqa: E501
    for name in record.files:
        check_recorded(record, FROZEN, name)
    assert {"predictions.jsonl", "adapter.safetensors", "metrics.csv"} <= record.files.keys()
    assert len(predictions(FROZEN)) == 900
    assert adapter_description(FROZEN)["method"]["name"] == "ia3"
    assert sum(tensor.numel() for tensor in load_weights(FROZEN).values()) == record.parameters["trainable"]
    settings = finished_settings(FROZEN)
    assert settings is not None
    assert settings["dataset"]["name"] == record.dataset


def test_it_is_finished_and_not_made_again(run: Path) -> None:
    before = contents(run)
    record = train(compose("+experiment=demo", f"runs={run.parent}"))
    assert record == load_record(FROZEN)
    assert contents(run) == before
    assert list(run.parent.iterdir()) == [run]


def test_evaluated_again_it_gives_its_numbers(run: Path) -> None:
    overrides = [f"adapter={run}", f"runs={run.parent}", "trainer=cpu"]
    again, record = (
        evaluate(with_run_settings(compose(*overrides, config_name="evaluate"), overrides)),
        load_record(run),
    )
    assert again.metrics["templates"] == record.metrics["templates"]
    assert again.metrics["accuracy_by_norm"] == record.metrics["accuracy_by_norm"]
    ours, theirs = predictions(run.parent / again.name), predictions(run)
    for new, old in zip(ours, theirs, strict=True):
        for key in ("scores", "unconditional"):
            assert new.pop(key) == pytest.approx(old.pop(key), rel=1e-5, abs=1e-5)  # processors sum in other orders
        assert new == old


def test_it_labels_rows(run: Path, tmp_path: Path) -> None:
    """Those on which its templates agree, without their labels, in the columns of its data set."""
    agreed = {idx: found[0] for idx, found in by_row(run).items() if len({one["predicted"] for one in found}) == 1}
    rows = generate("eval", "commits", 0, eval=2000)
    names = ("entailment", "contradiction", "neutral")
    texts = [{key: rows[idx][key] for key in ("text", "claim")} for idx in list(agreed)[:20]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    overrides = [f"adapter={run}", f"input={tmp_path}/rows.jsonl", f"output={tmp_path}/labels.jsonl", "trainer=cpu"]
    predict(compose(*overrides, config_name="predict"), overrides)
    labelled = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert [row["label"] for row in labelled] == [names[one["predicted"]] for one in list(agreed.values())[:20]]
    assert len({row["label"] for row in labelled}) == 3
