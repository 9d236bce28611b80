"""T0-3B and T0-11B shapes with random weights on a GPU: seconds a step, throughput, peak memory, share of the limit.

    python scripts/bench/gpu.py                            both shapes, under ten minutes
    python scripts/bench/gpu.py --shapes t0_3b --choices 2,20
    python scripts/bench/gpu.py --shapes tiny --rounds 2   tries the script out on a CPU

Needs torch, transformers and this package's own files. Weights are random: speed does not depend on them. Texts have
the paper's median length of 103 tokens, from a quarter to seven quarters of it.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.limit import COMMON, ROWS, SHAPES, matmul_flops_per_second, useful_flops, wait_for
from tfew.methods.base import adapter_parameters, attach
from tfew.methods.ia3 import IA3
from tfew.schema import Batch
from tfew.scoring.losses import T_FEW, counts, loss_terms
from tfew.scoring.prefixes import prefixes
from tfew.scoring.score import ENGINES, scoring_mode, token_logprob

MEDIAN_TOKENS = 103
LONGEST_CHOICE = {2: 2, 4: 32, 20: 4, 77: 7}
TRAINING_EXAMPLES, SCORING_EXAMPLES, STEPS = 8, 64, 1000
IA3_YAML = Path(__file__).resolve().parents[2] / "configs" / "method" / "ia3.yaml"
HEADER = ["shape", "what", "choices", "engine", "seconds", "spread", "per 1,000 steps", "texts/s", "peak GB", "share"]


def main() -> None:
    options = _options()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rate = matmul_flops_per_second(device, dtype)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}: {rate / 1e12:.2f} TFLOP/s in a large {dtype} product; torch {torch.__version__},"
          f" transformers {transformers.__version__}", flush=True)  # fmt: skip
    rows = []
    for shape in options.shapes.split(","):
        model = make_model(shape, device, dtype)
        weights_gb = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9
        print(f"{shape}: {weights_gb:.1f} GB of weights", flush=True)
        for choices in map(int, options.choices.split(",")):
            for engine in ENGINES:
                for what, examples, measure in (
                    ("training step", TRAINING_EXAMPLES, _training),
                    ("scoring", SCORING_EXAMPLES, _scoring),
                ):
                    batch = make_batch(examples, choices).to(device)
                    row = [shape, what, choices, engine]
                    try:
                        seconds, spread, peak = measured(measure(model, batch, engine), options.rounds, device)
                    except torch.cuda.OutOfMemoryError:
                        torch.cuda.empty_cache()
                        rows.append([*row, "out of memory", "", "", "", "", ""])
                        continue
                    flops = useful_flops(shape, batch.input_mask.sum(-1).tolist(), len(prefixes(batch).depth_M))
                    share = flops * (2 if measure is _training else 1) / seconds / rate
                    per_run = f"{seconds * STEPS:.0f} s" if measure is _training else ""
                    rows.append(
                        [*row, f"{seconds:.4f}", f"{spread:.4f}", per_run, f"{examples / seconds:.0f}",
                         f"{peak:.1f}", f"{share:.0%}"]
                    )  # fmt: skip
                    print(*rows[-1], flush=True)
        del model
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print("\n" + table(rows))


def make_model(shape: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Built without memory, then filled at random where it will live."""
    config = transformers.T5Config(decoder_start_token_id=0, **{**COMMON, **SHAPES[shape]})
    with torch.device("meta"):
        model: Any = transformers.T5ForConditionalGeneration(config)
        model.lm_head = nn.Linear(config.d_model, ROWS, bias=False)
    model = model.to(dtype).to_empty(device=device)
    model.set_input_embeddings(model.shared)  # to_empty has untied them
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("layer_norm.weight"):
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=0.5 * parameter.shape[-1] ** -0.5)
    arguments = yaml.safe_load(IA3_YAML.read_text(encoding="utf-8"))
    for key in ("name", "_target_", "steps", "lr", "scale_parameter"):
        arguments.pop(key, None)
    attach(IA3(**arguments), model)
    return model


def make_batch(examples: int, choices: int) -> Batch:
    generator = torch.Generator().manual_seed(choices)
    length_B = torch.randint(MEDIAN_TOKENS // 4, MEDIAN_TOKENS * 7 // 4, (examples,), generator=generator)
    shared = LONGEST_CHOICE[choices] < 10  # labels are the same for all examples, endings of a story are not
    length_BC = torch.randint(2, LONGEST_CHOICE[choices] + 1, (1 if shared else examples, choices), generator=generator)
    length_BC = length_BC.expand(examples, choices)
    tokens = int(length_BC.max())
    choice_ids = torch.randint(2, ROWS, (1 if shared else examples, choices, tokens), generator=generator)
    choice_ids[..., 0] = choice_ids[..., 0] % 50 + 2  # shared prefixes
    choice_ids = choice_ids.expand(examples, choices, tokens).contiguous()
    place = torch.arange(tokens)
    choice_ids[place == length_BC[..., None] - 1] = 1
    width = int(length_B.max())
    return Batch(
        input_ids=torch.randint(2, ROWS, (examples, width), generator=generator),
        input_mask=torch.arange(width) < length_B[:, None],
        choice_ids=choice_ids,
        choice_mask=place < length_BC[..., None],
        label=torch.randint(0, choices, (examples,), generator=generator),
    )


def _training(model: nn.Module, batch: Batch, engine: str) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(adapter_parameters(model).values(), lr=3e-3)
    step_counts = counts(batch)

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        logprob = token_logprob(model, batch, engine)
        loss_terms(logprob, batch, T_FEW, step_counts)["loss"].backward()
        optimizer.step()

    return step


def _scoring(model: nn.Module, batch: Batch, engine: str) -> Callable[[], object]:
    def score() -> None:
        with scoring_mode(model):
            token_logprob(model, batch, engine)

    return score


def measured(call: Callable[[], object], rounds: int, device: torch.device) -> tuple[float, float, float]:
    """Median and interquartile range of the seconds of a call, and the peak memory in GB (0 on a CPU)."""
    call()
    call()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(rounds):
        wait_for(device)
        started = time.perf_counter()
        call()
        wait_for(device)
        seconds.append(time.perf_counter() - started)
    low, middle, high = statistics.quantiles(seconds, n=4) if rounds > 1 else (seconds[0],) * 3
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
    return middle, high - low, peak


def table(rows: list[list[object]]) -> str:
    cells = [HEADER, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADER))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="t0_3b,t0_11b", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--choices", default="2,4,20")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    if unknown := set(options.choices.split(",")) - set(map(str, LONGEST_CHOICE)):
        parser.error(f"--choices {', '.join(sorted(unknown))} is none of {', '.join(map(str, LONGEST_CHOICE))}")
    if unknown := set(options.shapes.split(",")) - SHAPES.keys():
        parser.error(f"no shape is named {', '.join(sorted(unknown))}; there are {', '.join(SHAPES)}")
    return options


if __name__ == "__main__":
    main()
