"""Folds trained at the same time are the folds trained one after the other (slow: each is a process)."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.test_own_tables import ROWS, trained
from tests.test_train import folder
from tfew.errors import UserError
from tfew.training import folds_at_once

pytestmark = pytest.mark.slow
OPTIONS = ("folds=3", "validation=null", "steps=3")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folds") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def kept(run: Any) -> dict[str, bytes]:
    place = folder(run)
    names = ("predictions.jsonl", "adapter.safetensors", *(f"fold_{fold}/predictions.jsonl" for fold in range(3)))
    return {name: (place / name).read_bytes() for name in names}


def test_they_are_those_one_after_the_other(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a process is killed, and the run goes on."""
    one = trained(table, tmp_path / "one", *OPTIONS)
    started, place = folds_at_once._started, tmp_path / "two" / one.name

    def killed(config: Any, *arguments: Any) -> Any:
        process = started(config, *arguments)
        if arguments[1] == 1:
            os.kill(process.pid, signal.SIGKILL)
        return process

    with monkeypatch.context() as patch:
        patch.setattr(folds_at_once, "_started", killed)
        with pytest.raises(UserError, match=r"process of fold 2 ended \(signal 9\).*resume=true"):
            trained(table, tmp_path / "two", *OPTIONS, "folds_at_once=2")
    assert not (place / "result.json").exists()
    two = trained(table, tmp_path / "two", *OPTIONS, "folds_at_once=2", "resume=true")
    assert two.name == one.name
    assert kept(two) == kept(one)
    assert two.metrics == one.metrics


def test_what_a_process_refuses_is_said(table: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"folds_at_once=2 gives each fold a device of its own"):
        trained(table, tmp_path, *OPTIONS, "folds_at_once=2", "trainer.devices=2")
    with pytest.raises(UserError, match="folds_at_once=0"):
        trained(table, tmp_path, *OPTIONS, "folds_at_once=0")
