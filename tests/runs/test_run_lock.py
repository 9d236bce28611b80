"""A run folder that another process uses: the second process gets an error, and a killed owner blocks nobody."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import start_command
from tfew.errors import UserError
from tfew.runs import run_folder
from tfew.runs.run_lock import LOCK_FILE, RunLocked, is_locked, lock_file, lock_run

HOLDER = "import sys, time; from pathlib import Path; from tfew.runs.run_lock import lock_run\nwith lock_run(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"  # fmt: skip  # noqa: E501


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds `tmp_path`/runs/run."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "runs" / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_who_comes_second_is_told_and_a_killed_owner_blocks_nobody(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    folder = tmp_path / "runs" / "run"
    assert is_locked(folder / LOCK_FILE)
    with pytest.raises(RunLocked, match=rf"run is being worked on by process {holder.pid} on .* since \d{{4}}-") as error, lock_run(folder):  # fmt: skip  # noqa: E501
        pytest.fail("two processes hold one folder")
    assert error.value.folder == folder
    assert is_locked(folder / LOCK_FILE), "asking takes nothing from its owner"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (folder / LOCK_FILE).exists()
    assert not is_locked(folder / LOCK_FILE)
    with lock_run(folder):
        assert f"process {os.getpid()} on" in (folder / LOCK_FILE).read_text()
        with pytest.raises(RunLocked), lock_run(folder):
            pytest.fail("held twice by one process")
    assert not (folder / LOCK_FILE).exists()


def test_nothing_is_left_of_what_stays_empty(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="bad data"), lock_run(tmp_path / "new" / "runs" / "run"):
        raise RuntimeError("bad data")
    assert list(tmp_path.iterdir()) == []
    with lock_run(tmp_path / "new" / "run"):
        (tmp_path / "new" / "run" / "file").touch()
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == ["file"]
    (tmp_path / "mine").mkdir()
    with lock_run(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir(), "somebody else's empty folder"


def test_a_forked_child_does_not_keep_it(tmp_path: Path) -> None:
    """Data-loader workers are forked and may outlive a run for a moment."""
    with lock_file(tmp_path / "lock"):
        child = os.fork()
        if child == 0:
            signal.pause()
    assert not is_locked(tmp_path / "lock")
    with lock_file(tmp_path / "lock"):
        assert is_locked(tmp_path / "lock")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/run cannot be written \(Not a directory\)"), lock_run(tmp_path / "file" / "run"):  # fmt: skip  # noqa: E501
        pytest.fail("there is no such place")


def test_a_run_that_another_process_makes(
    tmp_path: Path, holder: subprocess.Popen[str], train_tiny: Callable[..., Any]
) -> None:
    folder = tmp_path / "runs" / "run"
    with pytest.raises(UserError, match=r"runs/run is being worked on by process \d+ .*wait for it to end"):
        train_tiny(f"run_dir={folder}")
    assert [path.name for path in folder.iterdir()] == [LOCK_FILE]
    holder.kill()
    holder.wait()
    train_tiny(f"run_dir={folder}")
    assert not (folder / LOCK_FILE).exists(), "a lock left by a killed run is no foreign file"
    assert (folder / "result.json").is_file()


def test_a_run_that_is_finished_while_it_is_claimed_is_not_made_again(
    tmp_path: Path, train_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look and the claim another process ends the same run."""
    asked = []
    already_finished = run_folder.already_finished

    def other_is_quicker(*arguments: Any) -> bool:
        asked.append(already_finished(*arguments))
        if len(asked) == 1:
            monkeypatch.setattr(run_folder, "already_finished", already_finished)
            train_tiny(f"run_dir={tmp_path}/run")
            monkeypatch.setattr(run_folder, "already_finished", other_is_quicker)
        return asked[-1]

    monkeypatch.setattr(run_folder, "already_finished", other_is_quicker)
    record = train_tiny(f"run_dir={tmp_path}/run")
    assert asked == [False, True]
    assert record == train_tiny(f"run_dir={tmp_path}/run")


@pytest.mark.drill
@pytest.mark.slow
def test_the_same_run_started_twice_at_once(tmp_path: Path) -> None:
    command = ["tfew.train", "+experiment=demo", "model=tiny", "trainer=cpu", "steps=150"]
    both = [start_command(*command, "dataset.generator.eval=4", f"run_dir={tmp_path}/run") for _ in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    loser = errors[[process.returncode for process in both].index(1)]
    assert re.search(r"run is being worked on by process \d+", loser)
    assert "Traceback" not in loser
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 151
