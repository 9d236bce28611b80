"""Benchmarks this project against what users would otherwise run: `make bench`, or

    python -m scripts.bench             everything: about an hour on two cores
    python -m scripts.bench quick       ours and the official recipe on few sizes, two rounds: under five minutes
    python -m scripts.bench shots       in-context learning with a decoder-only model alone

Contenders alternate within each round, so that other load on the machine affects all alike. Each case is saved in
runs/bench as soon as it is measured: if interrupted, the same command continues with the next. The full benchmark
writes scripts/bench/RESULTS.md and the figure beside it; a part writes runs/bench/quick.md or shots.md.
"""

import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

import torch
from tqdm import tqdm

from scripts.bench.case import HARNESS, PARTS, TRAINED, Case, cases
from scripts.bench.contenders import CONTENDERS, make_optimizer, prepared, score, training_step
from scripts.bench.limit import matmul_flops_per_second, useful_flops
from scripts.bench.measured import Measured
from scripts.bench.report import FIGURE, RESULTS, write_report
from scripts.bench.rival import harness
from scripts.bench.workload import encode, make_encoder, make_model, make_prompts
from tfew.data.tokenization import PromptTokenizer, TokenizedPrompt, collate
from tfew.devices.cpu import keep_freed_memory
from tfew.schema import Prompt
from tfew.scoring.prefixes import prefixes

CPU = torch.device("cpu")
STEPS = 10  # of the whole experiment, which ends with scoring
SLOW_SECONDS = 12  # slower contenders are measured in the first round only


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS, default="all")
    part = parser.parse_args().part
    keep_freed_memory()  # as tfew's commands do, here for all
    measured = Measured.open(part)
    rounds = 2 if part == "quick" else 3
    with ExitStack() as stack:

        @cache
        def rival(shape: str) -> Callable[[list[Prompt]], float]:
            return stack.enter_context(harness(make_model(shape), make_encoder().tokenizer)).seconds

        for case, rivals in tqdm(cases(part), desc="Cases", unit="case"):
            if not measured.has(case):
                with measured.timed():
                    _measure(case, rivals, rival, rounds)
                measured.add(case)
                write_report(measured, rounds, measured.path.with_suffix(".md"))
    if part == "all":
        for choices in (2, 4, 20):
            for name in CONTENDERS:
                if (name != "peft" or choices < 20) and (name, choices) not in measured.memory:
                    with measured.timed():
                        bytes_ = _printed_number("scripts.bench.memory", name, str(choices))
                    measured.add_memory(name, choices, bytes_)
    if not measured.starts and part != "shots":
        with measured.timed():
            found = starts(1 if part == "quick" else 5)
        measured.add_starts(found)
    path, figure = (RESULTS, FIGURE) if part == "all" else (measured.path.with_suffix(".md"), None)
    write_report(measured, rounds, path, figure)
    measured.finish()
    print(f"\n{path.read_text(encoding='utf-8')}\nwritten to {path}")


def _measure(
    case: Case,
    rivals: tuple[str, ...],
    rival: Callable[[str], Callable[[list[Prompt]], float]],
    rounds: int,
) -> None:
    prompt_tokenizer = make_encoder(case.shape)
    prompts = make_prompts(case.workload, prompt_tokenizer)
    items = encode(prompts, prompt_tokenizer)
    calls: dict[str, Callable[[], float]] = {}
    for name in (*rivals, "ours"):
        if name == HARNESS:
            calls[name] = partial(rival(case.shape), prompts)
        else:
            calls[name] = _timed(case, name, prompts, prompt_tokenizer)
    flops = _flops(case, items)
    first = {name: call() for name, call in calls.items()}  # not counted
    for number in range(rounds):
        rate = matmul_flops_per_second(CPU, torch.float32)
        for name, call in calls.items():
            if number == 0 or first[name] < SLOW_SECONDS:
                case.seconds.setdefault(name, []).append(call())
        case.share.append(flops / case.seconds["ours"][-1] / rate)


def _flops(case: Case, items: list[TokenizedPrompt]) -> float:
    def scoring(of: list[TokenizedPrompt]) -> float:
        lengths, prefix_count = [i.length for i in of], len(prefixes(collate(of, 0)).depth_M)
        return useful_flops(case.shape, lengths, prefix_count, len(of[0].context_ids))

    training = 2 * scoring(items[:TRAINED])
    return {"scoring": scoring(items), "training step": training}.get(case.what, STEPS * training + scoring(items))


def _timed(case: Case, name: str, prompts: list[Prompt], prompt_tokenizer: PromptTokenizer) -> Callable[[], float]:
    model = prepared(name, case.shape)
    optimizer = make_optimizer(model)
    batch = collate(encode(prompts[:TRAINED], prompt_tokenizer), prompt_tokenizer.pad_id)

    def call() -> float:
        started = time.perf_counter()
        for _ in range({"scoring": 0, "training step": 1}.get(case.what, STEPS)):
            training_step(name, model, batch, optimizer)
        if case.what != "training step":
            score(name, model, encode(prompts, prompt_tokenizer), prompt_tokenizer.pad_id)
        return time.perf_counter() - started

    return call


def _printed_number(module: str, *arguments: str) -> int:
    command = [sys.executable, "-m", module, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def starts(rounds: int) -> dict[str, list[float]]:
    """Seconds from the command to the first step of a run on the embedded model, and of the bare imports alone."""
    imports = [sys.executable, "-c", "import torch, transformers, pytorch_lightning"]
    seconds: dict[str, list[float]] = {"imports": [], "first step": []}
    for _ in range(rounds):
        started = time.time()
        subprocess.run(imports, check=True, capture_output=True)
        seconds["imports"].append(time.time() - started)
        with tempfile.TemporaryDirectory() as folder:
            started = time.time()
            train = [sys.executable, "-m", "tfew.train", "+experiment=demo", "steps=1", "eval_rows=1", f"runs={folder}"]
            subprocess.run(train, check=True, capture_output=True)
            (metrics,) = Path(folder).glob("*/metrics.csv")
            seconds["first step"].append(metrics.stat().st_mtime - started)
    return seconds


if __name__ == "__main__":
    main()
