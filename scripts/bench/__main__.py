"""Measures ours against what users would otherwise run: `make bench`, or

    python -m scripts.bench             everything: some 25 minutes on two cores
    python -m scripts.bench quick       fewer sizes, two rounds
    python -m scripts.bench memory NAME CHOICES     one training step in a fresh process; prints bytes above the weights

Contenders take turns within each round, so that a machine that is busy for a while is busy for all. Tables go to
scripts/bench/RESULTS.md, the figure beside it.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from scripts.bench.contenders import (
    CONTENDERS,
    make_optimizer,
    prepared,
    score,
    training_step,
)  # fmt: skip
from scripts.bench.limit import matmul_flops_per_second, useful_flops
from scripts.bench.report import write_report
from scripts.bench.rival import harness
from scripts.bench.workload import Workload, encode, make_encoder, make_model, make_prompts
from tfew.data.tokenization import PromptTokenizer, TokenizedPrompt, collate
from tfew.errors import UserError, unknown_value_error
from tfew.schema import Prompt
from tfew.scoring.prefixes import prefixes

CPU = torch.device("cpu")
EXAMPLES = {2: 32, 4: 32, 20: 16, 77: 16}
TRAINED = 8  # examples of a training step, as in the recipe
STEPS = 10  # of the whole experiment, which ends with scoring
HARNESS = "lm-eval"
SLOW_SECONDS = 12  # who takes longer takes part in the first round only


@dataclass
class Case:
    """`seconds` of each round by contender; `share`: of the matrix-product rate, ours, by round."""

    what: str
    shape: str
    workload: Workload
    seconds: dict[str, list[float]] = field(default_factory=dict)
    share: list[float] = field(default_factory=list)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str) -> tuple[float, float, float]:
        """Lowest, median and highest of "NAME's seconds / ours" over the rounds."""
        ratios = sorted(other / mine for other, mine in zip(self.seconds[name], self.seconds["ours"], strict=False))
        return ratios[0], statistics.median(ratios), ratios[-1]


def cases(quick: bool) -> list[tuple[Case, tuple[str, ...]]]:
    """What is measured, and by whom; rivals that are slow only at the middle length."""
    found: list[tuple[Case, tuple[str, ...]]] = []
    for choices, examples in EXAMPLES.items():
        grows = choices in (2, 20) and not quick
        for length in (64, 128, 256) if grows else (128,):
            rivals: tuple[str, ...] = ("official", "peft", HARNESS) if length == 128 else ("official",)
            found.append((Case("scoring", "small", Workload(choices, length, False, examples)), rivals))
        if choices < 77:  # the official recipe's 616 rows of a step take more memory than most machines have
            trained = Case("training step", "small", Workload(choices, 128, False, TRAINED))
            # 20 whole copies of every input, kept for the backward pass, are more than 15 GB
            found.append((trained, ("official", "peft") if choices < 20 else ("official",)))
    found.append((Case("scoring", "small", Workload(2, 128, True, 32)), ("official",)))
    found.append((Case("scoring", "base", Workload(2, 128, True, 16)), ("official",)))
    for choices in (2,) if quick else (2, 20):
        found.append((Case("scoring", "base", Workload(choices, 128, False, 16)), ("official",)))
    if not quick:
        found.append((Case("training step", "base", Workload(2, 128, False, TRAINED)), ("official",)))
        found.append((Case("experiment", "small", Workload(4, 128, False, 16)), ("official", "peft")))
    return found


def main(arguments: Sequence[str]) -> None:
    memory_of = len(arguments) == 3 and arguments[0] == "memory"
    if arguments not in ([], ["quick"]) and not memory_of:
        raise unknown_value_error(
            "argument", " ".join(arguments), ("quick", "memory NAME CHOICES"), "python -m scripts.bench"
        )
    if memory_of and (arguments[1] not in CONTENDERS or arguments[2] not in map(str, EXAMPLES)):
        good = [f"{name} {choices}" for name in CONTENDERS for choices in EXAMPLES]
        raise unknown_value_error("contender", " ".join(arguments[1:]), good, "python -m scripts.bench memory")
    if memory_of:
        print(training_bytes(arguments[1], int(arguments[2])))
        return
    quick = arguments[:1] == ["quick"]
    rounds = 2 if quick else 3
    started = time.time()
    prompt_tokenizer = make_encoder()
    measured = []
    with harness(make_model("small"), prompt_tokenizer.tokenizer) as rival:
        for case, rivals in tqdm(cases(quick), desc="Cases", unit="case"):
            prompts = make_prompts(case.workload, prompt_tokenizer)
            items = encode(prompts, prompt_tokenizer)
            calls: dict[str, Callable[[], float]] = {}
            for name in (*rivals, "ours"):
                if name == HARNESS:
                    calls[name] = partial(rival.seconds, prompts)
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
            measured.append(case)
    memory = {
        (name, choices): int(subprocess.run([sys.executable, "-m", "scripts.bench", "memory", name, str(choices)],
                                            check=True, capture_output=True, text=True).stdout)
        for choices in (2, 4, 20) for name in CONTENDERS if name != "peft" or choices < 20
    }  # fmt: skip
    write_report(measured, memory, starts(3 if quick else 5), rounds, time.time() - started)


def _flops(case: Case, items: list[TokenizedPrompt]) -> float:
    def scoring(of: list[TokenizedPrompt]) -> float:
        return useful_flops(case.shape, [len(i.input_ids) for i in of], len(prefixes(collate(of, 0)).depth_M))

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


def training_bytes(name: str, choices: int) -> int:
    """Peak of the process's memory during a training step, less what it had before: the model is loaded then."""
    prompt_tokenizer = make_encoder()
    batch = collate(
        encode(make_prompts(Workload(choices, 128, False, TRAINED), prompt_tokenizer), prompt_tokenizer),
        prompt_tokenizer.pad_id,
    )
    model = prepared(name, "small")
    optimizer = make_optimizer(model)
    small = collate(
        encode(make_prompts(Workload(2, 8, True, 1), prompt_tokenizer), prompt_tokenizer), prompt_tokenizer.pad_id
    )
    training_step(name, model, small, optimizer)  # what a first step allocates once
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew (Linux)
    before = _status_bytes("VmRSS")
    training_step(name, model, batch, optimizer)
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def starts(rounds: int) -> dict[str, list[float]]:
    """Seconds from the command to the first step of a run on the embedded model, and of the bare imports alone."""
    import tempfile

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
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
