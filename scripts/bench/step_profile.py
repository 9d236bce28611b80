"""Where the time of a training step, or of scoring, goes, by kind of operation:

    python -m scripts.bench.step_profile                         T5-small's shape, 2 choices
    python -m scripts.bench.step_profile --shape base --choices 2 4 20
    python -m scripts.bench.step_profile --shape smollm2_135m --length 80
    python -m scripts.bench.step_profile --scoring

Each line is a kind of operation, with its milliseconds in a step, or in scoring as many examples; "Python and dispatch"
is what is left beside all of them. The rate of a large matrix product, in the same run, tells how close the step is to
the machine's limit.
"""

import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from scripts.bench.case import TRAINED
from scripts.bench.contenders import CONTENDERS, make_optimizer, prepared, score, training_step
from scripts.bench.limit import matmul_flops_per_second, useful_flops
from scripts.bench.workload import Workload, encode, make_encoder, make_prompts
from tfew.data.tokenization import collate
from tfew.devices.cpu import keep_freed_memory
from tfew.scoring.prefixes import prefixes

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
SHARE = "useful operations over the limit, %"


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


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="small")
    parser.add_argument("--choices", type=int, nargs="+", default=[2])
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=["official", "ours"])
    parser.add_argument("--scoring", action="store_true", help="scoring instead of a training step")
    parser.add_argument("--operations", action="store_true", help="list the single operations, too")
    options = parser.parse_args()
    keep_freed_memory()  # as tfew's commands do, here for all
    for choices in options.choices:
        workload = Workload(choices, options.length, False, TRAINED)
        print(table(options.shape, workload, options.contenders, options.scoring, options.operations), flush=True)


def table(
    shape: str, workload: Workload, contenders: Sequence[str], scoring: bool = False, operations: bool = False
) -> str:
    """A column for each contender, in Markdown."""
    prompt_tokenizer = make_encoder(shape)
    items = encode(make_prompts(workload, prompt_tokenizer), prompt_tokenizer)
    batch = collate(items, prompt_tokenizer.pad_id)
    flops = (1 if scoring else 2) * useful_flops(
        shape, [len(item.input_ids) for item in items], len(prefixes(batch).depth_M)
    )
    columns: dict[str, dict[str, float]] = {}
    for name in contenders:
        model = prepared(name, shape)
        step: Callable[[], object] = partial(training_step, name, model, batch, make_optimizer(model))
        if scoring:
            step = partial(score, name, model, items, prompt_tokenizer.pad_id)
        seconds, by_kind, by_name = kinds_of_time(step)
        share = flops / seconds / matmul_flops_per_second(torch.device("cpu"), torch.float32)
        columns[name] = {"a step": seconds * 1e3, SHARE: 100 * share, **by_kind}
        columns[name] |= by_name if operations else {}
    lines = [
        f"| {'scoring' if scoring else 'training step'}, {shape}, {workload} | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for row in dict.fromkeys(row for column in columns.values() for row in column):
        lines.append(f"| {row} | {' | '.join(f'{column.get(row, 0.0):.1f}' for column in columns.values())} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
