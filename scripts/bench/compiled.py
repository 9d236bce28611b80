"""Scoring and training with feed-forwards and norms compiled by torch.compile: `python -m scripts.bench.compiled`.

Prints seconds of a pass without and with it, which take turns, those of the first passes with it, which compile, and
after how many passes the time is back. On a GPU if there is one; on a CPU torch needs a C++ compiler for it.
"""

import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from scripts.bench.case import SMOLLM2, TRAINED
from scripts.bench.contenders import make_optimizer, ours, prepared, training_step
from scripts.bench.limit import wait_for
from scripts.bench.workload import Workload, encode, make_encoder, make_prompts
from tfew.data.tokenization import collate
from tfew.devices.cpu import keep_freed_memory
from tfew.scoring.score import scoring_mode

SMALL_KERNELS = ("mlp", "DenseReluDense", "layer_norm", "layernorm", "norm")  # last name parts of their modules
LENGTHS = {"small": 128, SMOLLM2: 80}
BATCHES, ROUNDS = 4, 5  # batches of other lengths, so that shapes change as they do in use


def with_compiled_parts(model: nn.Module) -> nn.Module:
    for name, module in model.named_modules():
        if name.endswith(SMALL_KERNELS):
            module.compile(dynamic=True)
    return model


def passes(shape: str, training: bool, compiled: bool, device: torch.device) -> Callable[[], float]:
    """A function that scores all batches, or trains a step on each, and returns its seconds."""
    prompt_tokenizer = make_encoder(shape)
    items = encode(
        make_prompts(Workload(2, LENGTHS[shape], False, BATCHES * TRAINED), prompt_tokenizer), prompt_tokenizer
    )
    parts = [items[start : start + TRAINED] for start in range(0, len(items), TRAINED)]
    batches = [collate(part, prompt_tokenizer.pad_id).to(device) for part in parts]
    model: Any = prepared("ours", shape).to(device)
    optimizer = make_optimizer(model)
    if compiled:
        with_compiled_parts(model)

    def scored() -> None:
        with scoring_mode(model):
            for batch in batches:
                ours(model, batch)

    def trained() -> None:
        for batch in batches:
            training_step("ours", model, batch, optimizer)

    def call() -> float:
        wait_for(device)
        started = time.perf_counter()
        trained() if training else scored()
        wait_for(device)
        return time.perf_counter() - started

    return call


def main() -> None:
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args()
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{BATCHES} batches of {TRAINED}, 2 choices, {torch.get_num_threads()} threads, median of {ROUNDS} rounds")
    for shape in tqdm(LENGTHS, desc="Shapes", unit="shape"):
        for training in (False, True):
            plain, compiled = (passes(shape, training, is_compiled, device) for is_compiled in (False, True))
            first = compiled() + compiled() - plain() - plain()  # each pair with what is tried out once a model
            seconds = [(plain(), compiled()) for _ in range(ROUNDS)]
            without, with_it = (median(of_kind) for of_kind in zip(*seconds, strict=True))
            compiling = first + 2 * (without - with_it)
            back = f"{compiling / (without - with_it):.0f} passes" if with_it < without else "never"
            print(
                f"  {shape}, {'a training step' if training else 'scoring'}: {without:.2f} s, compiled {with_it:.2f}"
                f" ({without / with_it:.2f} times as fast), compiling {compiling:.1f}; paid back after {back}"
            )


if __name__ == "__main__":
    main()
