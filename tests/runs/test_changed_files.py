"""Runs whose base model or data, in a local folder, have changed since: their names cannot tell."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from tests.hub.repositories import t5
from tfew.config import compose
from tfew.errors import UserError
from tfew.runs.noted import note_rows
from tfew.schema import Example
from tfew.together import train_together
from tfew.train import rerun, train
from tfew.training import fit


def test_newer_weights_are_warned_of(tmp_path: Path, train_tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for name, data in t5().items():
        (base / name).write_bytes(data)
    given = (f"model.path={base}", "dataset.generator.eval=4", "steps=1")
    record = train_tiny(*given)
    train_tiny(*given)
    assert not [message for message in caplog.messages if "has changed since" in message]
    later = time.time() + 10
    os.utime(base / "model.safetensors", (later, later))
    assert train_tiny(*given) == record
    assert f"{base}/model.safetensors has changed since that run was finished: overwrite=true" in caplog.text


def quick(data: Path, *overrides: str) -> DictConfig:
    given = ("+experiment=rte", f"data_dir={data}", "model=tiny", "trainer=cpu", "few_shot=draw", "shots=4", "steps=2")
    return compose(*given, "eval_rows=4", "batch_size=4", *overrides)


def reverse_lines(path: Path) -> None:
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))


def reordered(line: str) -> str:
    """The same row of JSON lines with its columns in another order."""
    return json.dumps(dict(reversed(json.loads(line).items()))) + "\n"


def test_newer_data_are_warned_of(made_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = shutil.copytree(made_data, tmp_path / "data")
    given = quick(data, f"runs={tmp_path}/runs")
    record = train(given)
    caplog.clear()
    assert train(given) == record
    assert not [message for message in caplog.messages if "has changed since" in message]
    changed = next(data.rglob("RTE/val.jsonl"))
    reverse_lines(changed)
    later = time.time() + 10
    os.utime(changed, (later, later))
    assert train(given) == record
    assert f"{changed} has changed since that run was finished: overwrite=true" in caplog.text


@pytest.mark.parametrize("make", [train, lambda config: train_together([config])], ids=["alone", "together"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_run_is_not_resumed_on_other_rows(
    made_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[DictConfig], Any], split: str
) -> None:
    data = shutil.copytree(made_data, tmp_path / "data")
    given = quick(data, f"runs={tmp_path}/runs", "resume=true")
    with monkeypatch.context() as patch:
        patch.setattr(fit, "fit", lambda *_: 1 / 0)
        patch.setattr("tfew.together._fit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make(given.copy())
    changed = next(data.rglob(f"RTE/{split}.jsonl"))
    reverse_lines(changed)
    use = {"train": "training", "val": "evaluation"}[split]
    with pytest.raises(
        UserError, match=rf"The {use} rows of rte are not those that this run was begun with .*overwrite=true"
    ):
        make(given.copy())
    reverse_lines(changed)
    changed.write_text("".join(reordered(line) for line in changed.read_text().splitlines()))
    make(given.copy())


def test_overwrite_starts_over_on_other_rows_and_rerun_tells_of_them(
    made_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = shutil.copytree(made_data, tmp_path / "data")
    first = train(quick(data, f"runs={tmp_path}/runs"))
    caplog.set_level("INFO")
    overrides = (f"rerun={first.folder}", f"runs={tmp_path}/again")
    same = rerun(compose(*overrides), overrides)
    assert "other rows; " not in caplog.text
    assert same.config["rows_sha256"] == first.config["rows_sha256"]
    reverse_lines(next(data.rglob("RTE/train.jsonl")))
    overrides = (f"rerun={first.folder}", f"runs={tmp_path}/other")
    again = rerun(compose(*overrides), overrides)
    assert "other rows; " in caplog.text
    third = train(quick(data, f"runs={tmp_path}/runs", "overwrite=true"))
    assert third.config["rows_sha256"] == again.config["rows_sha256"] != first.config["rows_sha256"]


def test_a_run_of_an_earlier_version_keeps_its_held_out_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were drawn in another way where a table has repeated rows."""
    table = tmp_path / "t.csv"
    lines = [f"it is {'good' if i % 2 else 'bad'} {i},{i % 2}\n" for i in range(24)]
    table.write_text("".join(["text,label\n", *lines, *lines]))
    common = ("+experiment=local", f"data={table}", "model=tiny", "trainer=cpu", "folds=null", "validation=0.25")
    given = compose(*common, "steps=2", "batch_size=4", f"runs={tmp_path}/runs", "resume=true")
    with monkeypatch.context() as patch:
        patch.setattr(fit, "fit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(given.copy())
    settings = next(tmp_path.glob("runs/*/config.yaml"))
    saved = yaml.safe_load(settings.read_text())
    del saved["dataset"]["held_out"]["grouped"], saved["rows_sha256"]  # as an earlier version wrote it
    settings.write_text(yaml.safe_dump(saved))
    record = train(given.copy())
    assert "grouped" not in record.config["dataset"]["held_out"]
    now = train(compose(*common, "steps=2", "batch_size=4", f"runs={tmp_path}/now"))
    assert record.counts["rows"] < now.counts["rows"] == 12
    assert record.name == now.name


class Picture:
    """A cell as some data sets of the Hub have them; its representation names its place in memory."""


def test_the_digest_of_rows_is_of_their_contents() -> None:
    def digest(**fields: object) -> str:
        config = OmegaConf.create({"dataset": {"name": "d"}})
        note_rows(config, training=[Example(0, fields, 1)])
        return str(config.rows_sha256.training)

    one, other = Picture(), Picture()  # both at once, in two places
    assert digest(text="a", picture=one) == digest(picture=other, text="a")
    assert digest(text="a") != digest(text="b")
    assert digest(text="half \ud83d") != digest(text="half")
