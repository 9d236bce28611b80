"""Seconds and bytes of real steps on the real model, which `measure=true` adds to the forecast."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save

from tfew.costs.dry_run import Counted, make_gradients, score, scoring_pass, training_step
from tfew.costs.memory_forecast import SCORING, TRAINING, Plan
from tfew.methods.base import adapter_parameters
from tfew.models.loaded_model import Trainable
from tfew.models.optimizer_builder import optimizer_from
from tfew.schema import Batch

ROUNDS = 3  # of which the median is taken, after one that is not counted


@dataclass(frozen=True)
class Measured:
    """Measurements of a "training" step and a "scoring" pass; `peak_bytes` excludes the weights.

    On a GPU the peak is that of torch's allocator; on a CPU, which does not count it, that of operations' allocations.
    `adapter_file_bytes` is None if the saved size is only known after a calibration.
    """

    seconds: dict[str, float]
    peak_bytes: dict[str, int]
    counted: dict[str, Counted]
    adapter_file_bytes: int | None


def measure_run(plan: Plan, loaded: Trainable, batches: Mapping[str, Batch]) -> Measured:
    """Computes each batch a few times on the real model of this plan."""
    method, model, recipe = loaded.method, loaded.model, plan.recipe
    optimizer = optimizer_from(plan.blueprint.optimizer, list(adapter_parameters(model).values()))
    on_device = {what: batch.to(plan.device) for what, batch in batches.items()}

    def step() -> None:
        make_gradients(model, on_device[TRAINING], recipe)
        optimizer.step()

    calls: dict[str, Callable[[], None]] = {TRAINING: step, SCORING: lambda: score(model, on_device[SCORING], recipe)}
    counts: dict[str, Callable[[], Counted]] = {
        TRAINING: lambda: training_step(model, on_device[TRAINING], plan.optimizer, recipe),
        SCORING: lambda: scoring_pass(model, on_device[SCORING], recipe),
    }
    file_bytes = None
    if not method.needs_mask:
        file_bytes = len(save({name: tensor.cpu().contiguous() for name, tensor in method.stored(model).items()}))
    seconds, peaks = {}, {}
    before = _allocated(plan.device)
    _peak_allocated(plan.device)
    for what in sorted(batches):  # scoring first: a training step leaves the optimiser's state
        seconds[what] = _median_seconds(calls[what], plan.device)
        peaks[what] = _peak_allocated(plan.device) - before
    optimizer.zero_grad()
    counted = {what: counts[what]() for what in batches}
    if plan.device.type != "cuda":
        peaks = {what: count.peak_bytes for what, count in counted.items()}
    return Measured(seconds, peaks, counted, file_bytes)


def _median_seconds(call: Callable[[], Any], device: torch.device) -> float:
    taken = []
    for _ in range(1 + ROUNDS):
        _synchronize(device)
        started = time.perf_counter()
        call()
        _synchronize(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _peak_allocated(device: torch.device) -> int:
    """Peak since the last call."""
    if device.type != "cuda":
        return 0
    most = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return most


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
