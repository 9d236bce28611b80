"""Local processes, one per device: the output of a single process, also if some of them are killed."""

import logging
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from tests.pieces.conftest import made_rows, write_jsonl
from tests.test_predict import run
from tfew.errors import UserError
from tfew.pieces.labelling_job import LabellingJob
from tfew.pieces.manifest import Report

pytestmark = pytest.mark.slow
ROWS = 200


def test_a_worker_is_killed(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", list(made_rows(ROWS)))
    told = (f"adapter={adapter}", f"input={source}", "eval_batch_size=1", "piece_rows=32")
    run(*told, f"output={tmp_path}/one.csv")
    kept, killed = LabellingJob._report, []

    def report(self: LabellingJob, report: Report) -> None:
        kept(self, report)
        if len(killed) < 2:
            killed.append(multiprocessing.active_children()[0].pid)
            os.kill(killed[-1] or 0, signal.SIGKILL)

    monkeypatch.setattr(LabellingJob, "_report", report)
    caplog.set_level(logging.INFO, logger="tfew")
    logging.getLogger("tfew").propagate = True
    progress = run(*told, f"output={tmp_path}/two.csv", "trainer.devices=2")
    assert progress.rows == ROWS
    assert len(killed) == 2
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert not multiprocessing.active_children()


def test_what_a_worker_refuses_is_said(adapter: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", [*made_rows(9), {"lead": "bad"}])
    with pytest.raises(UserError, match=r"line 10: .*bad_rows=skip the same command continues"):
        run(f"adapter={adapter}", f"input={source}", f"output={tmp_path}/labels.csv", "trainer.devices=2")
    assert not multiprocessing.active_children()
