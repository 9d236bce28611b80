"""Actors of a local Ray cluster: the output of a single process, also if some of them are killed."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.pieces.conftest import made_rows, write_jsonl
from tests.test_predict import run
from tfew.environment import versions
from tfew.errors import UserError
from tfew.pieces.labelling_job import LabellingJob
from tfew.pieces.manifest import Report

ROWS = 200


@pytest.mark.slow
def test_a_worker_is_killed(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray makes a token in the home folder
    pytest.importorskip("ray", reason="needs Ray: pip install tfew[ray]")
    source = write_jsonl(tmp_path / "new.jsonl", list(made_rows(ROWS)))
    told = (f"adapter={adapter}", f"input={source}", "eval_batch_size=1", "piece_rows=32")
    run(*told, f"output={tmp_path}/one.csv")
    kept, killed = LabellingJob._report, []

    def report(self: LabellingJob, report: Report) -> None:
        kept(self, report)
        if not killed:
            killed.append(_workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(LabellingJob, "_report", report)
    progress = run(*told, f"output={tmp_path}/two.csv", "ray=local", "ray_actors=2")
    assert (progress.rows, len(killed)) == (ROWS, 1)
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()


def _workers() -> list[int]:
    """The actors that this process's cluster runs, which Ray calls ray::CLASS."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line.split(None, 2) for line in listing.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, _ in lines}

    def is_ours(pid: int) -> bool:
        while pid and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    return [int(pid) for pid, _, command in lines if command.startswith("ray::_Labeller") and is_ours(int(pid))]


def test_without_ray_a_sentence(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed", lambda name: None if name == "ray" else "1")
    source = write_jsonl(tmp_path / "new.jsonl", list(made_rows(3)))
    told = (f"adapter={adapter}", f"input={source}", f"output={tmp_path}/labels.csv")
    with pytest.raises(UserError, match=r"ray=auto needs ray, not installed here: pip install .*\[ray\]"):
        run(*told, "ray=auto")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.jsonl"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("ray_actors=0", "ray_actors=0 is neither auto nor"),
        ("ray_cpus=1.5", "ray_cpus=1.5 is neither a fraction"),
        ("ray_gpus=-1", "ray_gpus=-1 is neither a fraction"),
        ("trainer.devices=2", "with ray= set ray_actors="),
    ],
)
def test_what_cannot_work(
    override: str, sentence: str, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "installed", lambda name: "2.60.0")
    source = write_jsonl(tmp_path / "new.jsonl", list(made_rows(3)))
    with pytest.raises(UserError, match=sentence):
        run(f"adapter={adapter}", f"input={source}", f"output={tmp_path}/labels.csv", "ray=auto", override)
