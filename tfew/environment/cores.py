"""How many processor cores this process may use, and how many of them nobody else is using."""

import os
from pathlib import Path

CPU_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))  # of cgroups 2 and 1
QUOTA_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


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
