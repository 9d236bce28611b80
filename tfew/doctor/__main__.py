"""`tfew doctor`: reports this machine's resources and what can be trained on it, to paste into a bug report.

It prints versions, extras, device, cores, memory, disk, the Hub, and which named models can be trained here. Nothing is
downloaded, and no token is shown.
"""

import argparse
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tfew.cli import run_script
from tfew.doctor.libraries import extras, versions
from tfew.doctor.named_models import NamedModel, named_models, training_verdict
from tfew.environment.cores import load_average, usable_cores
from tfew.runs.units import format_bytes

PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
HUB_TIMEOUT_SECONDS = 5.0
# a user's own table with +experiment=local_english: the run that the minutes are for
STEPS, BATCH_SIZE, TOKENS = 60, 8, 80
FLOPS_PER_PARAMETER_AND_TOKEN = 4  # 2 forward, 2 backward: frozen weights get no gradients
MATRIX_SIZE, ROWS, ROUNDS = 1024, 512, 5  # of the matrix products that time the device


def doctor(ask_hub: bool, count_models: bool) -> Iterator[str]:
    """Lines of the report."""
    yield from (f"{what:<19}{found}" for what, found in versions().items())
    yield f"{'system':<19}{platform.platform()}"
    yield from extras()
    yield ""
    yield from _machine()
    yield ""
    yield from _hub(ask_hub)
    if count_models:
        yield ""
        yield from _models(named_models())


def _machine() -> Iterator[str]:
    usable, load = usable_cores(), load_average()
    busy = "" if load is None else f"; {load:.1f} processes ran or waited in the last minute"
    yield f"{'cores':<19}{usable:g} usable of {os.cpu_count()}{busy}"
    import torch

    from tfew.devices.memory import memory_of

    devices = [torch.device("cpu"), *(torch.device("cuda", number) for number in range(torch.cuda.device_count()))]
    for device in devices:
        memory = memory_of(device)
        what = "memory" if device.type == "cpu" else f"memory of GPU {device.index}"
        yield f"{what:<19}{format_bytes(memory.free_bytes)} free of {format_bytes(memory.total_bytes)}"
    yield f"{'torch threads':<19}{torch.get_num_threads()}"
    yield f"{'disk':<19}{format_bytes(shutil.disk_usage('.').free)} free in this folder"


def _hub(ask: bool) -> Iterator[str]:
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import CacheNotFound
    from huggingface_hub.utils import scan_cache_dir

    from tfew.files.hub import endpoint, is_offline, why_no_answer

    if is_offline():
        answer = "offline mode is on (HF_HUB_OFFLINE): only cached copies are used"
    elif not ask:
        answer = "not asked"
    else:
        problem = why_no_answer(HUB_TIMEOUT_SECONDS)
        answer = "answers" if problem is None else f"cannot be reached: {problem}"
    yield f"{'Hub':<19}{endpoint()} {answer}"
    yield f"{'Hub token':<19}{'set' if get_token() else 'none: public models and data only'}"
    if proxies := [name for name in PROXIES if os.environ.get(name)]:
        yield f"{'proxy':<19}set by {', '.join(proxies)}"
    cache = Path(constants.HF_HUB_CACHE)
    try:
        found = scan_cache_dir(cache)
        held = f"{format_bytes(found.size_on_disk)} in {len(found.repos)} repositories"
    except CacheNotFound:
        held = "empty"
    yield f"{'Hub cache':<19}{cache}: {held}"


def _models(models: list[NamedModel]) -> Iterator[str]:
    import torch

    from tfew.costs.speed_forecast import seconds_per_call
    from tfew.devices.memory import memory_of

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    free = memory_of(device).free_bytes
    matrix = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device, dtype=dtype)
    states = torch.randn(ROWS, MATRIX_SIZE, device=device, dtype=dtype)
    rate = 2 * ROWS * MATRIX_SIZE**2 / seconds_per_call(lambda: states @ matrix, device)
    load = load_average() or 0
    if load > usable_cores() / 2:
        yield f"The machine is busy (load {load:.1f}), and what follows was timed on what is left of it."
    yield (
        f"Models that can be trained here with (IA)³, and about how long {STEPS} steps of {BATCH_SIZE} short texts take"
        f" (at the {rate / 1e9:,.0f} GFLOP/s of a matrix product in {str(dtype).removeprefix('torch.')}):"
    )
    for model in models:
        seconds = STEPS * BATCH_SIZE * TOKENS * FLOPS_PER_PARAMETER_AND_TOKEN * model.parameters / rate
        verdict = training_verdict(model, free, dtype.itemsize, seconds)
        yield f"  {model.name:<17} {model.parameters / 1e9:7.3f} billion parameters  {verdict}"


def main() -> None:
    parser = argparse.ArgumentParser("tfew doctor", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--no-hub", action="store_true", help="do not ask the Hub")
    parser.add_argument("--no-models", action="store_true", help="leave out the list of models")

    def run(arguments: Sequence[str]) -> int:
        chosen = parser.parse_args(arguments)
        for line in doctor(not chosen.no_hub, not chosen.no_models):
            print(line, flush=True)
        return 0

    run_script(run)


if __name__ == "__main__":
    main()
