"""Measures ours against what users would otherwise run: `make bench`, or

    python -m scripts.bench             everything: some 25 minutes on two cores
    python -m scripts.bench quick       fewer sizes, two rounds

Contenders take turns within each round, so that a machine that is busy for a while is busy for all. Tables go to
scripts/bench/RESULTS.md, the figure beside it.
"""

import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from scripts.bench.case import HARNESS, TRAINED, Case, cases
from scripts.bench.contenders import CONTENDERS, make_optimizer, prepared, score, training_step
from scripts.bench.limit import matmul_flops_per_second, useful_flops
from scripts.bench.report import write_report
from scripts.bench.rival import harness
from scripts.bench.workload import encode, make_encoder, make_model, make_prompts
from tfew.data.tokenization import PromptTokenizer, TokenizedPrompt, collate
from tfew.schema import Prompt
from tfew.scoring.prefixes import prefixes

CPU = torch.device("cpu")
STEPS = 10  # of the whole experiment, which ends with scoring
SLOW_SECONDS = 12  # who takes longer takes part in the first round only


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("quick", nargs="?", choices=["quick"])
    quick = parser.parse_args().quick is not None
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
        (name, choices): int(subprocess.run([sys.executable, "-m", "scripts.bench.memory", name, str(choices)],
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
