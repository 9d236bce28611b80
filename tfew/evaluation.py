"""Ranking a whole evaluation split: predictions.jsonl and the numbers made of it, the same for every command."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from tqdm import tqdm

from tfew.build import memory_bytes, uses_autocast
from tfew.data.loader import Encoded, Encoder, collate
from tfew.methods.base import Method
from tfew.ranking.classes import summarise_classes
from tfew.ranking.metrics import summarise, summarise_members
from tfew.ranking.rank import rank_classify, unconditional_sums
from tfew.records import write_atomically
from tfew.run_folder import PREDICTIONS_FILE
from tfew.schema import Prediction, Prompt
from tfew.scoring import BoundedScorer, scoring_mode
from tfew.task import Task


@dataclass(frozen=True)
class Evaluated:
    """`tokens` counts inputs once and all choices, which is what the FLOPs formula takes."""

    metrics: dict[str, Any]
    counts: dict[str, int]
    tokens: int
    seconds: float


def evaluate_model(
    config: DictConfig, method: Method | None, model: nn.Module, encoder: Encoder, task: Task, folder: Path
) -> Evaluated:
    """Scores every prompt of the task and writes `predictions.jsonl`, in the task's order."""
    started = time.monotonic()
    predictions, encoded = rank(config, method, model, encoder, task)
    write_predictions(folder, predictions)
    counts = {
        "rows": task.rows,
        "prompts": len(predictions),
        "empty_renders": task.empty_renders,
        "cut_prompts": sum(item.cut_tokens + item.cut_choice_tokens > 0 for item in encoded),
    }
    tokens = sum(len(item.input_ids) + sum(map(len, item.choice_ids)) for item in encoded)
    return Evaluated(metrics_of(config, task, predictions), counts, tokens, time.monotonic() - started)


def metrics_of(config: DictConfig, task: Task, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """The numbers that `tfew.ranking.metrics` makes of these predictions; none where no label is known."""
    if all(prediction.label is None for prediction in predictions):
        return {}
    if task.mixture is not None:
        return summarise_members(predictions, config.score.norm)
    of_classes = {} if task.classes is None else summarise_classes(predictions, task.classes)
    return {**summarise(predictions, config.score.norm), **of_classes}


def write_predictions(folder: Path, predictions: Sequence[Prediction]) -> None:
    write_atomically(folder / PREDICTIONS_FILE, "".join(p.to_json() + "\n" for p in predictions))


def rank(
    config: DictConfig, method: Method | None, model: nn.Module, encoder: Encoder, task: Task
) -> tuple[list[Prediction], list[Encoded]]:
    """Predictions for all prompts of the task, in its order, and the prompts' tokens.

    Batches are made of prompts of like length, longest first: little padding, and what does not fit fails at once.
    """
    prompts = [prompt for row in task.prompts for prompt in row]
    encoded = encoder.all(prompts)
    order = sorted(range(len(prompts)), key=lambda position: -len(encoded[position].input_ids))
    batches = [
        [encoded[position] for position in order[start : start + config.eval_batch_size]]
        for start in range(0, len(order), config.eval_batch_size)
    ]
    progress = tqdm(batches, desc=f"Ranking {task.name}", unit="batch", mininterval=0.5)
    device = next(model.parameters()).device
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=uses_autocast(config, device, method))
    with scoring_mode(model), mixed:
        score = BoundedScorer(model, config.engine, memory_bytes(config))
        unconditional = {
            dataset: unconditional_sums(score, encoder.all, partial(collate, pad_id=encoder.pad_id), choices, device)
            for dataset, choices in _to_score_alone(prompts, config.score.norm).items()
        }
        ranked = rank_classify(
            score,
            (collate(batch, encoder.pad_id) for batch in progress),
            [prompts[position] for position in order],
            config.score.norm,
            device,
            unconditional,
        )
        by_position = dict(zip(order, ranked, strict=True))
    return [by_position[position] for position in range(len(prompts))], encoded


def _to_score_alone(prompts: Sequence[Prompt], norm: str) -> dict[str, list[str]]:
    """The choices of each data set to be scored after an empty input: where they are few, labels that rows share."""
    by_dataset = defaultdict(list)
    for prompt in prompts:
        by_dataset[prompt.dataset].append(prompt)
    choices = {name: sorted({c for prompt in group for c in prompt.choices}) for name, group in by_dataset.items()}
    return {name: texts for name, texts in choices.items() if norm == "pmi" or len(texts) < len(by_dataset[name])}
