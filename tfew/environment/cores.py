"""How many processor cores this process may use, and how many of them nobody else is using."""

import os
import time
from pathlib import Path

CPU_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))  # of cgroups 2 and 1
QUOTA_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
STATISTICS = Path("/proc/stat")  # of a core: user, nice, system, idle, waiting for a disk, interrupts (two), ...


def usable_cores() -> float:
    """Those that the affinity mask (taskset, Slurm) and the quota of a container leave."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, quota_cores() or allowed)


def quota_cores() -> float | None:
    """Cores that a container may use in the mean; None where none are set."""
    new, old = CPU_QUOTAS
    if new.is_file():
        words = new.read_text(encoding="utf-8").split()
    elif old.is_file() and QUOTA_PERIOD.is_file():
        words = [file.read_text(encoding="utf-8").strip() for file in (old, QUOTA_PERIOD)]
    else:
        return None
    return int(words[0]) / int(words[1]) if words[0].isdigit() else None  # "max" or -1: none


def load_average() -> float | None:
    """Processes that ran or waited to run, in the mean of the last minute; None where that is not counted."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def busy_cores(seconds: float = 0.15) -> float | None:
    """How many of the cores that this process may use others keep busy, in the mean of this time; None: not counted.

    This process must do nothing else meanwhile. (The load average would count what has ended a moment ago.)
    """
    before = _busy_seconds()
    if before is None:
        return None
    started = time.monotonic()
    time.sleep(seconds)
    after = _busy_seconds()
    return None if after is None else max(0.0, after - before) / (time.monotonic() - started)


def _busy_seconds() -> float | None:
    """Since the machine was started, of all these cores."""
    if not STATISTICS.is_file() or not hasattr(os, "sched_getaffinity"):
        return None
    allowed = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    rows = [line.split() for line in STATISTICS.read_text(encoding="utf-8").splitlines()]
    busy = [sum(map(int, row[1:4])) + sum(map(int, row[6:8])) for row in rows if row and row[0] in allowed]
    return sum(busy) / os.sysconf("SC_CLK_TCK") if busy else None


def share_of_cores(processes: int) -> int:
    """Threads of each of so many processes that share this machine."""
    return max(1, int(usable_cores()) // processes)


def free_cores() -> int:
    """Those that this process may use and nobody else is using; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    unused = allowed - (busy_cores() or 0.0)
    return max(1, round(min(unused, quota_cores() or unused)))
