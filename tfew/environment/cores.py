"""The number of processor cores that this process may use, and how many of them are free."""

import os
import time
from pathlib import Path
from typing import NamedTuple

CPU_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))  # of cgroups 2 and 1
QUOTA_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
STATISTICS = Path("/proc/stat")  # of a core: user, nice, system, idle, waiting for a disk, interrupts (two), ...
RECENT_SECONDS = 30.0
_first_sample: "Sample | None" = None


def usable_cores() -> float:
    """Cores that the affinity mask (taskset, Slurm) and the quota of a container allow."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, quota_cores() or allowed)


def quota_cores() -> float | None:
    """Cores that a container may use on average; None without a quota."""
    new, old = CPU_QUOTAS
    if new.is_file():
        words = new.read_text(encoding="utf-8").split()
    elif old.is_file() and QUOTA_PERIOD.is_file():
        words = [file.read_text(encoding="utf-8").strip() for file in (old, QUOTA_PERIOD)]
    else:
        return None
    return int(words[0]) / int(words[1]) if words[0].isdigit() else None  # "max" or -1: no quota


def load_average() -> float | None:
    """Average number of processes that ran or waited to run in the last minute; None if not counted."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


class Sample(NamedTuple):
    """Taken by `process` at `monotonic`: seconds in which these cores were busy so far, `own` of them with it."""

    process: int
    monotonic: float
    busy: float
    own: float


def watch_others() -> None:
    """Begins to count what other processes use, so that a command whose cores are free needs no waiting for it."""
    global _first_sample
    _first_sample = _sample()


def busy_cores(seconds: float = 0.15) -> float | None:
    """Average number of this process's cores that other processes keep busy during this time; None: not counted.

    (The load average would include processes that have just ended.)
    """
    before = _sample()
    if before is None:
        return None
    time.sleep(seconds)
    return _busy_since(before)


def busy_while_importing() -> float | None:
    """The same since `watch_others`, which includes processes that have ended; None if that was not just now."""
    before = _first_sample
    if before is None or before.process != os.getpid():
        return None
    return _busy_since(before) if time.monotonic() - before.monotonic < RECENT_SECONDS else None


def _busy_since(before: Sample) -> float | None:
    after = _sample()
    if after is None:
        return None
    of_others = after.busy - before.busy - (after.own - before.own)
    return max(0.0, of_others) / (after.monotonic - before.monotonic)


def _sample() -> Sample | None:
    busy = _busy_seconds()
    return None if busy is None else Sample(os.getpid(), time.monotonic(), busy, time.process_time())


def _busy_seconds() -> float | None:
    """Busy seconds of all these cores since the machine was started."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    try:
        rows = [line.split() for line in STATISTICS.read_text(encoding="utf-8").splitlines()]
    except OSError:  # absent, or not for this user
        return None
    allowed = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    busy = [sum(map(int, row[1:4])) + sum(map(int, row[6:8])) for row in rows if row and row[0] in allowed]
    return sum(busy) / os.sysconf("SC_CLK_TCK") if busy else None


def share_of_cores(processes: int) -> int:
    """Threads for each of this number of processes on this machine."""
    return max(1, int(usable_cores()) // processes)


def free_cores() -> int:
    """Number of cores that this process may use and no other process uses; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = busy_while_importing()
    if busy is None or busy >= 0.5:  # would cost a thread: still so now?
        busy = busy_cores() or 0.0
    unused = allowed - busy
    return max(1, round(min(unused, quota_cores() or unused)))
