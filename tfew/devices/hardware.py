"""The hardware of a run, for its record: seconds and memory depend on it, and on a CPU the last bits of a sum."""

import platform
from pathlib import Path

import torch

from tfew.devices.distributed import world_size


def hardware(device: torch.device) -> dict[str, str]:
    """Name of the device, number of processes with one each, and threads of each on a CPU."""
    processes = {"world_size": str(world_size())}
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), **processes}
    return {"device": cpu_name(), **processes, "threads": str(torch.get_num_threads())}


def cpu_name() -> str:
    """As Linux tells it; elsewhere the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
