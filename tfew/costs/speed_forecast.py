"""Forecasts the seconds of a step: the counted work, divided by this machine's measured speed.

    seconds = FLOPs / rate of matrix products + bytes written / rate of element-wise operations
            + operations * time to start one

The work is counted in a dry run, and the three rates are measured quickly, on tensors of the model's own sizes.
Not included: loading, the optimiser's own work, and later load or throttling of the machine. On a GPU the third
term overlaps with the other two, so the larger counts.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROUNDS = 5  # of which the median is taken
MIN_SECONDS = 0.01  # of a round: clocks and schedulers are coarse
OVERHEAD_OPERATIONS = 100
LEAST_BYTES = 2**20  # minimum size for timing element-wise operations: below, launching dominates


@dataclass(frozen=True)
class Work:
    """`written_bytes`: of all operations except views; `operations`: their number."""

    flops: float
    written_bytes: float
    operations: int

    def of_share(self, tokens: float) -> "Work":
        """The work for a batch with this share of the tokens, with the same number of operations."""
        return replace(self, flops=self.flops * tokens, written_bytes=self.written_bytes * tokens)


@dataclass(frozen=True)
class Speed:
    """`overlaps`: whether operations are launched asynchronously, as on a GPU."""

    flops_per_second: float
    bytes_per_second: float
    operation_seconds: float
    overlaps: bool = False

    def seconds(self, work: Work) -> float:
        computing = work.flops / self.flops_per_second + work.written_bytes / self.bytes_per_second
        starting = work.operations * self.operation_seconds
        return max(computing, starting) if self.overlaps else computing + starting


class CountedOperations(TorchDispatchMode):
    """Counts operations other than views, and the bytes that they write."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.written_bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        aliases = [returned.alias_info for returned in func._schema.returns]
        if any(alias is None or alias.is_write for alias in aliases):
            self.operations += 1
            self.written_bytes += sum(leaf.nbytes for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result


def measure_speed(model: nn.Module, rows: int, device: torch.device, dtype: torch.dtype) -> Speed:
    """Measured on products of this number of rows with the model's most common matrix, in a few tenths of a second.

    `model` may have shapes only.
    """
    outputs, inputs = _usual_matrix(model)
    draw = partial(torch.randn, device=device, dtype=dtype, generator=torch.Generator(device).manual_seed(0))
    matrix, states = draw(outputs, inputs), draw(max(rows, 1), inputs)
    wide = draw(max(states.numel(), LEAST_BYTES // dtype.itemsize))
    small = torch.zeros(8, device=device, requires_grad=True)
    with torch.no_grad():
        product_seconds = seconds_per_call(lambda: functional.linear(states, matrix), device)
        written_seconds = seconds_per_call(lambda: functional.gelu(wide) + wide, device)
    starting_seconds = seconds_per_call(lambda: [small * 2 for _ in range(OVERHEAD_OPERATIONS)], device)
    return Speed(
        2 * states.numel() * outputs / product_seconds,
        2 * wide.nbytes / written_seconds,
        starting_seconds / OVERHEAD_OPERATIONS,
        overlaps=device.type == "cuda",
    )


def _usual_matrix(model: nn.Module) -> tuple[int, int]:
    """The matrix shape that holds most of the model's parameters, embeddings left out."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    sizes: dict[tuple[int, int], int] = {}
    for parameter in model.parameters():
        if parameter.dim() == 2 and id(parameter) not in embeddings:
            shape = (parameter.shape[0], parameter.shape[1])
            sizes[shape] = sizes.get(shape, 0) + parameter.numel()
    return max(sizes, key=sizes.__getitem__, default=(256, 256))


def seconds_per_call(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, after an uncounted warm-up call."""
    call()
    times: list[float] = []
    calls = 1
    while len(times) < ROUNDS:
        _synchronize(device)
        started = time.perf_counter()
        for _ in range(calls):
            call()
        _synchronize(device)
        taken = time.perf_counter() - started
        if taken < MIN_SECONDS and calls < 2**12:
            calls *= 2
        else:
            times.append(taken / calls)
    return statistics.median(times)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
