"""Memory of a device, and its peak use."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
CGROUP_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # under CGROUPS, of version 2 and 1
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class DeviceMemory:
    """`total_bytes`: the most that a process could ever have; `free_bytes`: what it can have now."""

    total_bytes: int
    free_bytes: int


def memory_of(device: torch.device) -> DeviceMemory:
    """A GPU's own memory; else this machine's, with swap in the total, or a container's limit."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return DeviceMemory(total, free)
    if not MEMINFO.is_file():  # not Linux
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return DeviceMemory(total, total)
    lines = (line.split() for line in MEMINFO.read_text(encoding="utf-8").splitlines())
    kibibytes = {words[0].rstrip(":"): int(words[1]) for words in lines}
    most = min([1024 * kibibytes["MemTotal"], *_limits()])
    return DeviceMemory(most + 1024 * kibibytes["SwapTotal"], min(most, 1024 * kibibytes["MemAvailable"]))


def _limits() -> list[int]:
    """Memory limits of a container in bytes; empty if none is set ("max")."""
    texts = [(CGROUPS / name).read_text().strip() for name in CGROUP_LIMITS if (CGROUPS / name).is_file()]
    return [int(text) for text in texts if text.isdigit()]


def peak_memory_bytes() -> int:
    """Peak of the GPU if one is used, else of the process; 0 if it is not counted (Windows)."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
