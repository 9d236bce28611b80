"""Tasks in one batch, and runs trained together, compared with one at a time: `python -m scripts.bench.mixed`.

    python -m scripts.bench.mixed            all: some minutes on two cores
    python -m scripts.bench.mixed scoring    or: training

Scoring: eight tasks' (IA)³ vectors, a few rows of each, on a T5 of random weights: all rows in one batch, or a batch
for each task, whose vectors are first put into the model. Training: five few-shot runs of mini-T0 and of that T5,
together or one after the other. Both variants alternate in one run; the largest difference of results is printed.
"""

import contextlib
import io
import logging
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from scripts.bench.limit import COMMON, SHAPES
from scripts.bench.workload import Workload, encode, make_encoder, make_model, make_prompts
from tfew.config import compose, resolved
from tfew.data.tokenization import collate
from tfew.methods.base import Method, attach
from tfew.methods.task_bank import TaskBank
from tfew.models.method_builder import make_method
from tfew.schema import Batch
from tfew.scoring.score import scoring_mode, token_logprob
from tfew.together import settings_of_each, train_together
from tfew.train import train

TASKS, ROWS_OF_A_TASK, ROUNDS = 8, (1, 4, 16), 7
SHAPE = "small"
SEEDS, TRAINING_ROUNDS = 5, 3
TRAINED = {
    "mini_t0": ("model=mini_t0", "steps=50"),
    f"T5-{SHAPE}": (
        "model=tiny", "model.tokenizer=pkg://mini_t0/checkpoint", "model.arch.dropout_rate=0", "steps=10",
        *(f"model.arch.{key}={value}" for key, value in {**COMMON, **SHAPES[SHAPE]}.items()
          if key in ("d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads")),
    ),
}  # fmt: skip


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("all", "scoring", "training"), default="all")
    what = parser.parse_args().what
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}", flush=True)
    if what != "training":
        scoring()
    if what != "scoring":
        training()


def scoring() -> None:
    method = make_method(resolved(compose("method=ia3").method))
    bare, single = make_model(SHAPE), make_model(SHAPE)
    weights = [_vectors(method, bare, task) for task in range(TASKS)]
    bank = TaskBank(bare)
    places = [bank.add(method.scalings(bare, of_task)) for of_task in weights]
    attach(method, single)
    print(f"{'rows':>5} {'of a task':>9} {'mixed':>12} {'one by one':>12} {'one task':>12}   gain  difference")
    for rows in ROWS_OF_A_TASK:
        batch = _batch(rows)
        mixed = replace(batch, task_id=torch.tensor(places).repeat_interleave(rows))
        ways: dict[str, Callable[[], Tensor]] = {
            "mixed": lambda mixed=mixed: token_logprob(bare, mixed),  # type: ignore[misc]
            "one by one": lambda batch=batch, rows=rows: _one_by_one(method, single, weights, batch, rows),  # type: ignore[misc]
            "one task": lambda batch=batch: token_logprob(single, batch),  # type: ignore[misc]
        }
        with scoring_mode(bare), scoring_mode(single):
            seconds, results = _in_turns(ways, ROUNDS)
        per_second = {name: len(batch) / median(times) for name, times in seconds.items()}
        difference = (results["mixed"] - results["one by one"]).abs().max()
        print(
            f"{len(batch):5d} {rows:9d}" + "".join(f" {per_second[name]:8.1f}/s  " for name in ways)
            + f"  {per_second['mixed'] / per_second['one by one']:.2f}  {difference:.1e}", flush=True,
        )  # fmt: skip


def training() -> None:
    logging.getLogger("tfew").setLevel(logging.WARNING)
    print(f"{'model':>9} {'steps':>5} {'together':>9} {'apart':>9}   gain  difference")
    for name, overrides in TRAINED.items():
        seconds: dict[str, list[float]] = {"together": [], "apart": []}
        with tempfile.TemporaryDirectory() as folder:
            for number in range(TRAINING_ROUNDS):
                for way in seconds:
                    runs = Path(folder) / f"{way}{number}"
                    seconds[way].append(_train(way, runs, overrides))
            difference = _difference(Path(folder) / "together0", Path(folder) / "apart0")
        both = {way: median(times) for way, times in seconds.items()}
        steps = dict(override.split("=", 1) for override in overrides)["steps"]
        print(
            f"{name:>9} {steps:>5} {both['together']:7.1f} s {both['apart']:7.1f} s  "
            f" {both['apart'] / both['together']:.2f}  {difference:.1e}", flush=True,
        )  # fmt: skip


def _batch(rows: int) -> Batch:
    prompt_tokenizer = make_encoder()
    prompts = make_prompts(Workload(2, 32, False, TASKS * rows), prompt_tokenizer)
    return collate(encode(prompts, prompt_tokenizer), prompt_tokenizer.pad_id)


def _vectors(method: Method, model: nn.Module, task: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(task)
    return {
        name: ones + 0.1 * torch.randn(ones.shape, generator=generator) for name, ones in method.neutral(model).items()
    }


def _one_by_one(method: Method, model: nn.Module, weights: list[dict[str, Tensor]], batch: Batch, rows: int) -> Tensor:
    found = []
    for of_task, part in zip(weights, batch.split(rows), strict=True):
        method.restore(model, of_task)
        found.append(token_logprob(model, part))
    return torch.cat(found)


def _in_turns(ways: dict[str, Callable[[], Tensor]], rounds: int) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    results = {name: way() for name, way in ways.items()}  # not measured: what is done once
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in tqdm(range(rounds), desc="Rounds", unit="round"):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return seconds, results


def _train(way: str, runs: Path, overrides: tuple[str, ...]) -> float:
    """Seconds that training took, without loading and evaluation."""
    common = ["+experiment=mini_few_shot", "dataset=mini/complaint", "eval_rows=10", "trainer=cpu", f"runs={runs}"]
    configs = settings_of_each([*common, *overrides], SEEDS)
    with contextlib.redirect_stdout(io.StringIO()):
        records = train_together(configs) if way == "together" else [train(config) for config in configs]
    return sum(record.seconds["train"] for record in records)


def _difference(ours: Path, theirs: Path) -> float:
    found = []
    for path in sorted(ours.glob("*/adapter.safetensors")):
        first, second = load_file(path), load_file(theirs / path.relative_to(ours))
        found += [float((first[name] - second[name]).abs().max()) for name in first]
    return max(found)


if __name__ == "__main__":
    main()
