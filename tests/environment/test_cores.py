"""Cores that this process may use, and those that are free."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tfew.environment import cores

HEAD = "cpu  1 1 1 1 1 1 1 0 0 0\n"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Eight cores, of which this process may use the first four; no container."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(cores, "CPU_QUOTAS", (tmp_path / "cpu.max", tmp_path / "cpu.cfs_quota_us"))
    monkeypatch.setattr(cores, "QUOTA_PERIOD", tmp_path / "cpu.cfs_period_us")
    monkeypatch.setattr(cores, "STATISTICS", tmp_path / "stat")
    monkeypatch.setattr(cores, "_first_sample", None)
    return tmp_path


def busy(machine: Path, monkeypatch: pytest.MonkeyPatch, ticks: dict[int, int]) -> Callable[[float, float], None]:
    """While it waits for a second, core N is busy for `ticks[N]` hundredths of one; or when the returned function lets
    seconds pass, of which this process computes for some."""

    def statistics(added: dict[int, int]) -> str:
        rows = [f"cpu{core} {100 + added.get(core, 0)} 10 10 5000 7 1 1 0 0 0" for core in range(8)]
        return HEAD + "\n".join(rows) + "\nintr 12345\n"

    (machine / "stat").write_text(statistics({}))
    clock = {"monotonic": 0.0, "process_time": 0.0}

    def passes(seconds: float, own: float) -> None:
        clock["monotonic"] += seconds
        clock["process_time"] += own
        (machine / "stat").write_text(statistics(ticks))

    monkeypatch.setattr(cores.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(cores.time, "monotonic", lambda: clock["monotonic"])
    monkeypatch.setattr(cores.time, "process_time", lambda: clock["process_time"])
    monkeypatch.setattr(cores.time, "sleep", lambda seconds: passes(1.0, 0.0) if seconds > 0 else None)
    return passes


@pytest.mark.parametrize(
    ("ticks", "free"),
    [
        ({}, 4),
        ({0: 100, 1: 100}, 2),
        ({0: 40}, 4),  # less than half a core
        ({0: 30, 1: 40}, 3),
        ({0: 100, 1: 100, 2: 100, 3: 100}, 1),
        ({6: 100, 7: 100}, 4),  # not among those it may use
    ],
)
def test_cores_that_others_use_are_not_free(
    machine: Path, monkeypatch: pytest.MonkeyPatch, ticks: dict[int, int], free: int
) -> None:
    busy(machine, monkeypatch, ticks)
    assert cores.free_cores() == free


def test_free_cores_are_known_after_the_imports_without_waiting(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = busy(machine, monkeypatch, {0: 400, 1: 40})
    cores.watch_others()
    passes(4.0, 4.0)  # its own work on one core, a tenth of another's on the next
    monkeypatch.setattr(cores.time, "sleep", lambda seconds: pytest.fail("waits"))
    assert cores.busy_while_importing() == pytest.approx(0.1)
    assert cores.free_cores() == 4


def test_what_ran_during_the_imports_and_has_ended_leaves_its_cores_free(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = busy(machine, monkeypatch, {0: 400, 1: 400})
    cores.watch_others()
    passes(4.0, 4.0)
    assert cores.busy_while_importing() == 1.0
    assert cores.free_cores() == 4  # nothing more happens while it waits
    passes(cores.RECENT_SECONDS, 0.0)
    assert cores.busy_while_importing() is None


def test_statistics_that_may_not_be_read_are_none(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "stat").mkdir()
    cores.watch_others()
    assert (cores.busy_while_importing(), cores.busy_cores(), cores.free_cores()) == (None, None, 4)


@pytest.mark.parametrize(
    ("files", "usable"),
    [
        ({"cpu.max": "max 100000\n"}, 4),
        ({"cpu.max": "250000 100000\n"}, 2.5),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu.cfs_quota_us": "100000\n", "cpu.cfs_period_us": "50000\n"}, 2),
    ],
)
def test_a_containers_quota(
    machine: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], usable: float
) -> None:
    for name, text in files.items():
        (machine / name).write_text(text)
    assert cores.usable_cores() == usable
    assert cores.free_cores() == max(1, int(usable))  # without statistics nobody else is known to be there
    assert [cores.share_of_cores(count) for count in (1, 2, 9)] == [max(1, int(usable)), max(1, int(usable) // 2), 1]


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="Linux counts the time of its cores in /proc/stat")
def test_a_process_that_computes_is_counted() -> None:
    (core, *_) = os.sched_getaffinity(0)
    spin = f"import os\nos.sched_setaffinity(0, {{{core}}})\nprint('there', flush=True)\nwhile True: pass"
    allowed = os.sched_getaffinity(0)
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "there\n"
        os.sched_setaffinity(0, {core})  # of this core alone: what else runs here is not counted
        try:
            assert (cores.busy_cores(1.0) or 0) > 0.5
        finally:
            os.sched_setaffinity(0, allowed)
            other.kill()
