"""Repeating a run from its record: with the commits that it used, whatever branches point to now."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.hub.conftest import DEMO, new_process
from tests.hub.repositories import t5
from tests.hub.stand_in import StandIn
from tests.hub.test_commits import predictions
from tfew.config import checked, compose
from tfew.errors import UserError
from tfew.runs.identity import run_name
from tfew.runs.records import RunRecord, load_record, save_record
from tfew.runs.rerun import settings_again
from tfew.train import rerun, train

FROZEN = Path(__file__).parents[1] / "frozen" / "demo_commits-mini_t0-ia3-tfew-s0-fa83edaa"


def again(*overrides: str) -> RunRecord:
    return rerun(compose(*overrides), overrides)


def test_a_run_is_made_again(trained: RunRecord, hub: StandIn, tmp_path: Path, caplog: Any) -> None:
    folder = shutil.copytree(trained.folder, tmp_path / trained.name)
    other = {"versions": {**trained.versions, "torch": "1.0"}, "hardware": {**trained.hardware, "threads": "96"}}
    save_record(folder, replace(trained, **other, git_commit="0" * 40))
    hub.repositories["models", "me/t0"].commit(t5(seed=1))
    new_process()
    with caplog.at_level(logging.INFO, logger="tfew"):
        record = again(f"rerun={folder}", f"runs={tmp_path}/again")
    assert record.name == trained.name
    assert record.config["model"]["commit"] == trained.config["model"]["commit"]
    assert predictions(record.folder) == predictions(trained.folder)
    assert f"torch 1.0 -> {trained.versions['torch']}" in caplog.text
    assert "code 000000000000 -> " in caplog.text
    assert "the same bytes: metrics.csv, adapter.safetensors, predictions.jsonl; threads 96 -> " in caplog.text


def test_other_weights_are_not_taken_for_it(trained: RunRecord, tmp_path: Path, train_tiny: Any) -> None:
    """Of a folder: a path does not say what is in it."""
    folder = tmp_path / "model"
    for files in (t5(), t5(seed=1)):
        folder.mkdir(exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        if files is t5():
            record = train_tiny(f"model.path={folder}", "dataset.generator.eval=8", "steps=1")
    with pytest.raises(UserError, match=r"The weights of .*model are not those that this run was begun with"):
        again(f"rerun={record.folder}", f"runs={tmp_path}/again")


def test_a_run_of_an_earlier_version_keeps_its_name() -> None:
    """All its settings, and those that there were not yet."""
    overrides = [f"rerun={FROZEN}", "runs=elsewhere"]
    record, config = settings_again(compose(*overrides), ["rerun", "runs"])
    assert run_name(checked(config)) == record.name == load_record(FROZEN).name
    assert config.runs == "elsewhere"
    assert settings_again(compose(f"rerun={FROZEN}"), ["rerun"])[1].runs == "reruns"


def test_what_cannot_be_made_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"steps= would make another run than rerun=.*; allowed with it are: rerun, "):
        again(f"rerun={FROZEN}", "steps=4")
    with pytest.raises(UserError, match=r"is no folder of a run"):
        again(f"rerun={tmp_path}")
    with pytest.raises(UserError, match=r"would overwrite itself"):
        again(f"rerun={FROZEN}", f"runs={FROZEN.parent}")
    with pytest.raises(UserError, match=r"rerun= is of the command line"):
        train(compose(*DEMO, "rerun=runs/x"))
