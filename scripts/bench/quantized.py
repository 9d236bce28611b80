"""What quantised weights do to scores, time and memory: `python -m scripts.bench.quantized` (needs torchao).

SmolLM2-135M-Instruct on the training rows of the shipped `reviews`, zero-shot, in float32 but for the weights of linear
layers.
"""

import copy
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tfew.cli import run_script
from tfew.config import checked, compose, local_path
from tfew.data.tokenization import collate
from tfew.dataset_config import complete
from tfew.models.build import build_for_scoring, build_tokenizer
from tfew.models.quantization import QUANTIZED, quantizable, quantize, saved_bytes
from tfew.schema import Batch
from tfew.scoring.score import token_logprob
from tfew.task import train_task

ROUNDED = "bfloat16"
PASSES = 3


def main(arguments: Sequence[str]) -> int:
    table = local_path("pkg://examples/reviews_train.csv")
    config = complete(checked(compose("+experiment=local_english", f"data={table}", "label=sentiment")))
    tokenizer = build_tokenizer(config)
    base = build_for_scoring(config, tokenizer).model.eval()
    prompts = [prompt for row in train_task(config).prompts for prompt in row]
    batch = collate(tokenizer.tokenize(prompts), pad_id=tokenizer.pad_id)
    plain, seconds = scored(base, batch)
    print("| weights | saved | time | a sum moves by, mean | largest | rows that keep their label |")
    print("|---|---:|---:|---:|---:|---:|")
    for kind in (ROUNDED, *QUANTIZED):
        model: Any = copy.deepcopy(base)
        if kind == ROUNDED:
            for layer in quantizable(model):
                layer.weight.data = layer.weight.data.bfloat16().float()
        else:
            quantize(model, kind, torch.device("cpu"))
        found, taken = scored(model, batch)
        moved = (found - plain).abs()[batch.choice_mask.any(-1)]
        same = (found.argmax(-1) == plain.argmax(-1)).float().mean()
        saved = "" if kind == ROUNDED else f"{saved_bytes(base, kind) / 1e6:,.0f} MB"
        numbers = f"{taken / seconds:.2f} | {moved.mean():.3f} | {moved.max():.3f} | {100 * same:.0f} %"
        print(f"| {kind} | {saved} | {numbers} |")
    return 0


def scored(model: nn.Module, batch: Batch) -> tuple[Tensor, float]:
    """`sums_BC`, and the processor's seconds of the fastest pass."""
    seconds = []
    with torch.no_grad():
        for _ in range(PASSES):
            started = time.process_time()
            sums_BC = token_logprob(model, batch).sum(-1)
            seconds.append(time.process_time() - started)
    return sums_BC, min(seconds)


if __name__ == "__main__":
    run_script(main)
