"""A run that is killed (SIGKILL) at any moment resumes to the same vectors, bit for bit, and never counts as finished.

The reference is made by a process that shares nothing with the killed ones, not even the order of sets.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import run_command, start_command
from tests.test_train import vectors
from tfew.runs.run_folder import is_finished

STEPS = 120  # so many that the last kill, at 55 at most, comes in time on a busy machine
pytestmark = pytest.mark.slow


def command(folder: Path, *overrides: str) -> list[str]:
    return [
        "tfew.train", "+experiment=demo", "model=tiny", "trainer=cpu", f"steps={STEPS}", "checkpoint_every=4",
        "dataset.generator.eval=12", f"run_dir={folder}", *overrides,
    ]  # fmt: skip


def steps_done(folder: Path) -> int:
    path = folder / "metrics.csv"
    return max(0, len(path.read_text().splitlines()) - 1) if path.is_file() else 0


def kill_after(folder: Path, step: int) -> int:
    """Starts or continues the run, kills it once `step` steps are done; returns the steps that were done."""
    process = start_command(*command(folder, "resume=true"))
    deadline = time.monotonic() + 120
    while steps_done(folder) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return steps_done(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run([sys.executable, "-m", *command(folder)], check=True, capture_output=True)
    return folder


@pytest.mark.drill
def test_killed_three_times_and_resumed(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    source = random.Random(0)
    killed_at = []
    for low, high in ((5, 15), (20, 35), (40, 55)):
        killed_at.append(kill_after(folder, source.randint(low, high)))
        assert not is_finished(folder)
        assert not (folder / "adapter.safetensors").exists()
    result = run_command(*command(folder, "resume=true"), check=True)
    assert f"{folder} is unfinished; continuing" in result.stderr
    messages = [line for line in result.stderr.splitlines() if line and "it/s" not in line]
    assert messages == [
        "ia3 is on keys, values and feed-forward in 4 of 4 layers.",
        f"{folder} is unfinished; continuing.",
        f"{folder}: 32 shots, 12 rows to evaluate.",
    ]
    assert is_finished(folder)
    assert all(0 < step < STEPS for step in killed_at)
    ours, theirs = vectors(folder), vectors(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert (folder / "predictions.jsonl").read_bytes() == (undisturbed / "predictions.jsonl").read_bytes()
    assert (folder / "metrics.csv").read_bytes() == (undisturbed / "metrics.csv").read_bytes()
    assert not (folder / "checkpoint").exists()


def test_an_unfinished_run_starts_afresh_unless_told_otherwise(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kill_after(folder, 10)
    result = run_command(*command(folder), check=True)
    assert f"{folder} is unfinished; starting over without its checkpoint, from which resume=true" in result.stderr
    assert steps_done(folder) == STEPS


@pytest.mark.ci
def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    told = [sys.executable, "-m", *command(folder, "steps=20000")]
    process = subprocess.Popen(told, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while steps_done(folder) < 3 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "Interrupted. An unfinished run continues with resume=true." in err
    assert "Traceback" not in err
    assert not is_finished(folder)
