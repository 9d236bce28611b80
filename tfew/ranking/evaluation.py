"""Ranking a whole evaluation split: predictions.jsonl and the numbers made of it, the same for every command."""

import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from tqdm import tqdm

from tfew.data.tokenization import PromptTokenizer, TokenizedPrompt, collate
from tfew.devices.distributed import all_gather_objects, deal_out, is_main_process, split_between_processes, world_size
from tfew.errors import UserError
from tfew.files.atomic import write_atomically
from tfew.methods.base import Method
from tfew.models.backbone import window_tokens
from tfew.models.build import memory_bytes, shards_weights, uses_autocast
from tfew.ranking.classes import summarise_classes
from tfew.ranking.icl import COMBINATIONS, Answer, Shots, in_contexts, that_fit
from tfew.ranking.metrics import summarise, summarise_members
from tfew.ranking.rank_classification import rank_classify, unconditional_sums
from tfew.ranking.score_methods import answered, questions
from tfew.runs.run_folder import PREDICTIONS_FILE
from tfew.schema import Prediction, Prompt
from tfew.scoring.score import BoundedScorer, score_whole, scoring_mode
from tfew.task import InContext, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """`tokens` counts inputs once and all choices, which is what the FLOPs formula takes."""

    metrics: dict[str, Any]
    counts: dict[str, int]
    tokens: int
    seconds: float


def evaluate_model(
    config: DictConfig,
    method: Method | None,
    model: nn.Module,
    prompt_tokenizer: PromptTokenizer,
    task: Task,
    folder: Path,
    context: InContext | None = None,
) -> Evaluated:
    """Scores every prompt of the task, behind the shots of `context`, and writes `predictions.jsonl` in its order."""
    started = time.monotonic()
    ranked = rank(config, method, model, prompt_tokenizer, task, context)
    write_predictions(folder, [answer.under(config.score.norm) for answer in ranked.answers])
    counts = {
        "rows": task.rows,
        "prompts": len(ranked.answers),
        "empty_renders": task.empty_renders,
        "cut_prompts": sum(item.cut_tokens + item.cut_choice_tokens > 0 for item in ranked.encoded),
        **({"dropped_shots": ranked.dropped_shots} if context else {}),
    }
    tokens = sum(item.length + sum(map(len, item.choice_ids)) for item in ranked.encoded)
    return Evaluated(metrics_of(config, task, ranked.answers), counts, tokens, time.monotonic() - started)


def metrics_of(config: DictConfig, task: Task, answers: Sequence[Answer]) -> dict[str, Any]:
    """The numbers that `tfew.ranking.metrics` makes of these answers; none where no label is known."""
    norm = config.score.norm
    if all(answer.label is None for answer in answers):
        return {}
    if task.mixture is not None:
        return summarise_members(answers, norm)
    of_classes = {} if task.classes is None else summarise_classes([a.under(norm) for a in answers], task.classes)
    return {**summarise(answers, norm), **of_classes}


def write_predictions(folder: Path, predictions: Sequence[Prediction]) -> None:
    write_atomically(folder / PREDICTIONS_FILE, "".join(p.to_json() + "\n" for p in predictions))


@dataclass(frozen=True)
class Ranked:
    """Answers to all prompts of a task, in its order, and what was scored for them."""

    answers: list[Answer]
    encoded: list[TokenizedPrompt]
    dropped_shots: int


def rank(
    config: DictConfig,
    method: Method | None,
    model: nn.Module,
    prompt_tokenizer: PromptTokenizer,
    task: Task,
    context: InContext | None,
) -> Ranked:
    """Scores every prompt of the task, behind the shots of `context`."""
    prompts = [prompt for row in task.prompts for prompt in row]
    mode, ask = config.icl.mode if context else "none", config.score.method
    shots, dropped = _shots_that_fit(config, model, prompt_tokenizer, prompts, context)
    asked = [
        [questions(behind, ask) for behind in in_contexts(prompt, shots.get(prompt.template, ()), mode)]
        for prompt in prompts
    ]
    unique = list(dict.fromkeys(question for behind in asked for group in behind for question in group))
    encoded = prompt_tokenizer.tokenize(unique)
    device = next(model.parameters()).device
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=uses_autocast(config, device, method))
    with scoring_mode(model), mixed:
        alone = {} if ask == "channel" else _to_score_alone(prompts, config.score.norm)
        sums = dict(zip(unique, _sums(config, model, prompt_tokenizer, task.name, unique, encoded, alone), strict=True))
    answers = [
        Answer(
            tuple(answered(prompt, ask, [sums[question] for question in group]) for group in behind),
            config.icl.combine if context else COMBINATIONS[0],
        )
        for prompt, behind in zip(prompts, asked, strict=True)
    ]
    return Ranked(answers, encoded, dropped)


def _sums(
    config: DictConfig,
    model: nn.Module,
    prompt_tokenizer: PromptTokenizer,
    name: str,
    prompts: Sequence[Prompt],
    encoded: Sequence[TokenizedPrompt],
    to_score_alone: Mapping[str, Sequence[str]],
) -> list[Prediction]:
    """Every prompt's choices scored by sums, each by one of the processes, and known to all of them then.

    Batches are made of prompts of like length, longest first: little padding, and what does not fit fails at once.
    Where what stands in front is computed once (a decoder-only model), prompts with the same context stay together.
    """
    contexts = {id(item.context_ids): number for number, item in enumerate(encoded) if prompt_tokenizer.decoder_only}
    order = sorted(
        range(len(prompts)),
        key=lambda place: (contexts.get(id(encoded[place].context_ids), 0), -encoded[place].length),
    )
    size, together = config.eval_batch_size, shards_weights(config)
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    mine = split_between_processes(batches)
    # processes that go through the model together do so equally often: one more pass does not count
    passes = [*mine, *(batches[:1] * (len(deal_out(batches, world_size())[0]) - len(mine) if together else 0))]
    progress = tqdm(passes, desc=f"Ranking {name}", unit="batch", mininterval=0.5) if is_main_process() else passes
    device = next(model.parameters()).device
    limit = memory_bytes(config)
    score = partial(score_whole, model, config.engine) if together else BoundedScorer(model, config.engine, limit)
    collated = partial(collate, pad_id=prompt_tokenizer.pad_id)
    unconditional = {
        dataset: unconditional_sums(score, prompt_tokenizer.tokenize, collated, choices, device)
        for dataset, choices in to_score_alone.items()
    }
    in_order = [place for batch in passes for place in batch]
    tokens = (collated([encoded[place] for place in batch]) for batch in progress)
    ranked = rank_classify(score, tokens, [prompts[place] for place in in_order], "sum", device, unconditional)
    scored = list(zip(in_order, ranked, strict=True))[: sum(map(len, mine))]
    by_place = dict(one for of_a_process in all_gather_objects(scored) for one in of_a_process)
    return [by_place[place] for place in range(len(prompts))]


def _shots_that_fit(
    config: DictConfig,
    model: nn.Module,
    prompt_tokenizer: PromptTokenizer,
    prompts: Sequence[Prompt],
    context: InContext | None,
) -> tuple[dict[str, Shots], int]:
    """Each template's shots, and how many had to be left out because the model's window is full.

    Raises UserError where there are such and `icl.too_long=refuse`, or where nothing is left.
    """
    window = window_tokens(model)
    if context is None or window is None:
        return dict(context.shots) if context else {}, 0
    fitting, dropped = {}, 0
    for template, shots in context.shots.items():
        mine = [prompt for prompt in prompts if prompt.template == template]
        items = prompt_tokenizer.tokenize(
            [question for prompt in mine for question in questions(prompt, config.score.method)]
        )
        longest = max(
            (len(i.input_ids) + prompt_tokenizer.decoder_only * max(map(len, i.choice_ids)) for i in items), default=0
        )
        lengths = [len(prompt_tokenizer.shot(shot)) for shot in shots]
        places = that_fit(lengths, window - longest, config.icl.mode)
        if len(places) < len(shots) and (config.icl.too_long == "refuse" or not places):
            takes = f"{sum(lengths)} tokens" if config.icl.mode == "concat" else f"up to {max(lengths)} tokens each"
            raise UserError(
                f"Template {template!r}: {len(shots)} shots take {takes}, the longest query {longest}, and the model's"
                f" window is {window}: fewer shots (icl.shots=), icl.too_long=drop, or shorter queries (max_tokens=)."
            )
        fitting[template] = tuple(shots[place] for place in places)
        dropped += len(shots) - len(places)
    if dropped:
        log.info(
            f"Note: {dropped} shots, over {len(fitting)} templates, do not fit the model's window and were dropped."
        )
    return fitting, dropped


def _to_score_alone(prompts: Sequence[Prompt], norm: str) -> dict[str, list[str]]:
    """The choices of each data set to be scored after an empty input: where they are few, labels that rows share."""
    by_dataset = defaultdict(list)
    for prompt in prompts:
        by_dataset[prompt.dataset].append(prompt)
    choices = {name: sorted({c for prompt in group for c in prompt.choices}) for name, group in by_dataset.items()}
    return {name: texts for name, texts in choices.items() if norm == "pmi" or len(texts) < len(by_dataset[name])}
