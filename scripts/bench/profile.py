"""Where the time of a training step goes, by kind of operation:

    python -m scripts.bench.profile                               T5-small's shape, 2 choices, both engines
    python -m scripts.bench.profile shape=base choices=2,4,20
    python -m scripts.bench.profile model=smollm2_135m            a decoder-only model with its real weights

Each line is a kind of operation, with its share of the step; "Python and dispatch" is what is left beside all of them.
The rate of a large matrix product, in the same run, tells how close the step is to the machine's limit.
"""

import time
from collections import defaultdict
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::linear", "mkldnn"),
    "attention": ("aten::bmm", "aten::baddbmm", "aten::_scaled_dot_product", "aten::_softmax", "aten::_safe_softmax"),
    "random numbers of dropout": ("aten::bernoulli_", "aten::random_"),
    "copies, gathers, scatters": (
        "aten::copy_", "aten::index", "aten::gather", "aten::scatter", "aten::cat", "aten::masked_scatter",
        "aten::embedding", "aten::fill_", "aten::zero_", "aten::slice_backward",
    ),
    "sums and means": ("aten::sum", "aten::mean", "aten::amax", "aten::argsort", "aten::sort", "aten::cumsum"),
    "memory": ("aten::empty", "aten::resize_", "aten::view", "aten::as_strided", "aten::detach", "aten::new_"),
}  # fmt: skip
ELEMENT_WISE = "element by element"
PYTHON = "Python and dispatch"


def kinds_of_time(step: Callable[[], object], repeats: int = 5) -> tuple[float, dict[str, float], dict[str, float]]:
    """Seconds of a step; milliseconds of it by kind; and by name of operation."""
    step()
    started = time.perf_counter()
    for _ in range(repeats):
        step()
    seconds = (time.perf_counter() - started) / repeats
    with profile(activities=[ProfilerActivity.CPU], record_shapes=False) as profiler:
        for _ in range(repeats):
            step()
    by_name: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        if event.key.startswith("aten::") or "mkldnn" in event.key:
            by_name[event.key] += event.self_cpu_time_total / repeats / 1e3
    by_kind: dict[str, float] = defaultdict(float)
    for name, milliseconds in by_name.items():
        by_kind[_kind(name)] += milliseconds
    by_kind[PYTHON] = max(0.0, seconds * 1e3 - sum(by_name.values()))
    return seconds, dict(by_kind), dict(by_name)


def _kind(name: str) -> str:
    return next((kind for kind, starts in KINDS.items() if name.startswith(starts)), ELEMENT_WISE)
