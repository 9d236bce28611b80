"""Ranking a whole evaluation split: predictions.jsonl and the numbers made of it, the same for every command."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from tqdm import tqdm

from tfew.data.loader import encode, prompt_loader
from tfew.ranking.metrics import summarise
from tfew.ranking.rank import rank_classify
from tfew.records import write_atomically
from tfew.run_folder import PREDICTIONS_FILE
from tfew.schema import Batch
from tfew.scoring import scoring_mode, token_logprob
from tfew.task import Task


@dataclass(frozen=True)
class Evaluated:
    """`tokens` counts inputs once and all choices, which is what the FLOPs formula takes."""

    metrics: dict[str, Any]
    counts: dict[str, int]
    tokens: int
    seconds: float


def evaluate_model(
    config: DictConfig, model: nn.Module, tokenizer: Any, task: Task, device: torch.device, folder: Path
) -> Evaluated:
    """Scores every prompt of the task and writes `predictions.jsonl`."""
    started = time.monotonic()
    prompts = [prompt for row in task.prompts for prompt in row]
    loader = prompt_loader(prompts, tokenizer, config.max_tokens, config.eval_batch_size, config.workers)
    tokens = _Counter()
    with scoring_mode(model):
        batches = tokens.count(tqdm(loader, desc=f"Ranking {task.spec.name}", unit="batch", mininterval=0.5))
        predictions = list(
            rank_classify(lambda b: token_logprob(model, b), batches, prompts, config.score.norm, device)
        )
    write_atomically(folder / PREDICTIONS_FILE, "".join(p.to_json() + "\n" for p in predictions))
    counts = {
        "rows": task.rows,
        "prompts": len(prompts),
        "empty_renders": task.empty_renders,
        "cut_prompts": sum(encode(p, tokenizer, config.max_tokens).cut_tokens > 0 for p in prompts),
    }
    return Evaluated(summarise(predictions), counts, tokens.total, time.monotonic() - started)


class _Counter:
    """Counts the tokens of the batches that pass through."""

    def __init__(self) -> None:
        self.total = 0

    def count(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.total += int(batch.input_mask.sum() + batch.choice_mask.sum())
            yield batch
