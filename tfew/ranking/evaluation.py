"""Ranking a whole evaluation split: predictions.jsonl and the metrics of it, the same for every command."""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tfew.data.tokenization import TokenizedPrompt, collate
from tfew.devices.distributed import all_gather_objects, deal_out, is_main_process, split_between_processes, world_size
from tfew.environment.verbosity import bar_options
from tfew.errors import UserError
from tfew.files.atomic import write_atomically
from tfew.label_sets.questions import by_question
from tfew.models.backbone import window_tokens
from tfew.models.loaded_model import LoadedModel
from tfew.placement.position_table import within_window
from tfew.ranking.baselines import Guesses, compare
from tfew.ranking.icl import COMBINATIONS, Answer, Shots, fitting_shots, in_contexts
from tfew.ranking.label_set_summary import SavedDecision, decided, summarise_label_sets
from tfew.ranking.metrics import summarise, summarise_members
from tfew.ranking.per_label_metrics import label_places, summarise_classes
from tfew.ranking.rank_classification import rank_classify, unconditional_sums
from tfew.ranking.score_methods import prediction_from, prompts_to_score, shots_to_score
from tfew.ranking.shortlist import Shortlist, shortlist_of
from tfew.ranking.ties import same_choices, without_lucky_guess
from tfew.ranking.window import lengths_in_context
from tfew.runs.run_folder import PREDICTIONS_FILE
from tfew.schema import Prediction, Prompt
from tfew.scoring.score import BoundedScorer, score_whole, scoring_mode
from tfew.settings import EvaluationSettings
from tfew.task import InContext, Task

log = logging.getLogger(__name__)
DRAWN_TEMPLATES = "drawn at random"  # in place of a template


@dataclass(frozen=True)
class Evaluated:
    """`tokens` counts inputs once and all choices, which is what the FLOPs formula takes."""

    metrics: dict[str, Any]
    counts: dict[str, int]
    tokens: int
    seconds: float


def evaluate_model(
    loaded: LoadedModel,
    task: Task,
    settings: EvaluationSettings,
    folder: Path,
    context: InContext | None = None,
    guesses: Guesses | None = None,
    saved: SavedDecision | None = None,
) -> Evaluated:
    """Scores every prompt of the task, after the shots of `context`, and writes `predictions.jsonl` in their order.

    `guesses`: the baselines' predictions for the same rows, to compare with. `saved`: how the adapter decides which
    labels a row is given, if rows may have several; None: thresholds are chosen here.
    """
    started = time.monotonic()
    ranked = rank(loaded, task, settings, context)
    predictions = [answer.under(settings.score.norm) for answer in ranked.answers]
    write_predictions(folder, predictions if saved is None else decided(task, predictions, saved))
    counts = {
        "rows": task.rows,
        "prompts": sum(map(len, task.prompts)),
        "empty_renders": task.empty_renders,
        "cut_prompts": sum(item.cut_tokens + item.cut_choice_tokens > 0 for item in ranked.encoded),
        **({"dropped_shots": ranked.dropped_shots} if context else {}),
    }
    tokens = sum(item.length + sum(map(len, item.choice_ids)) for item in ranked.encoded)
    metrics = metrics_of(task, ranked.answers, settings.score.norm, guesses, saved)
    return Evaluated(metrics, counts, tokens, time.monotonic() - started)


def metrics_of(
    task: Task,
    answers: Sequence[Answer],
    norm: str,
    guesses: Guesses | None = None,
    saved: SavedDecision | None = None,
) -> dict[str, Any]:
    """The metrics of `tfew.ranking.metrics` for these answers; empty if no label is known.

    With a single template also `baselines`: by name, the result of `tfew.ranking.baselines.compare` on `guesses`.
    Rows with one template each, drawn at random, are one group: no template has enough of them to stand for itself.
    """
    if task.random_template:
        answers = [answer.with_template(DRAWN_TEMPLATES) for answer in answers]
    if task.several:
        return summarise_label_sets(task, [answer.under(norm) for answer in answers], guesses, saved)
    unknown = task.unknown_labels
    if all(answer.label is None for answer in answers) and not unknown:
        return {}
    if task.mixture is not None:
        return summarise_members(answers, norm)
    if task.classes is None:
        return summarise(answers, norm)
    predictions = [answer.under(norm) for answer in answers]
    metrics = {**summarise(answers, norm, unknown), **summarise_classes(predictions, task.classes, unknown)}
    if unknown:
        metrics["unknown_labels"] = dict(Counter(unknown.values()))
    if guesses and "classes" in metrics:  # one template: one prediction a row
        labels = label_places(predictions, task.classes, unknown)
        known = [(row, label) for row, label in enumerate(labels) if label is not None]
        metrics["baselines"] = compare(
            [label for _, label in known],
            [predictions[row].predicted for row, _ in known],
            {name: [of_rows[row] for row, _ in known] for name, of_rows in guesses.items()},
            len(metrics["classes"]),
            metrics["leading_metric"],
        )
    return metrics


def write_predictions(folder: Path, predictions: Sequence[Prediction]) -> None:
    write_atomically(folder / PREDICTIONS_FILE, "".join(p.to_json() + "\n" for p in predictions))


@dataclass(frozen=True)
class Ranked:
    """Answers to all prompts of a task (to each question, if a prompt has several), and the amount of scoring."""

    answers: list[Answer]
    encoded: list[TokenizedPrompt]
    dropped_shots: int


def rank(loaded: LoadedModel, task: Task, settings: EvaluationSettings, context: InContext | None = None) -> Ranked:
    """Scores every prompt of the task, after the shots of `context`."""
    prompts = [prompt for row in task.prompts for prompt in row]
    mode, method = settings.icl.mode if context else "none", settings.score.method
    shots, dropped = _fitting_shots(loaded, prompts, settings, context)
    # for each prompt, in each of its contexts, the prompts to score
    queries = [
        [
            prompts_to_score(in_context, method)
            for in_context in in_contexts(prompt, shots.get(prompt.template, ()), mode)
        ]
        for prompt in prompts
    ]
    unique = list(dict.fromkeys(query for contexts in queries for group in contexts for query in group))
    encoded = within_window(loaded.model, loaded.prompt_tokenizer.tokenize(unique), loaded.execution.engine)
    with scoring_mode(loaded.model), loaded.execution.autocast():
        shortlist = shortlist_of(settings.score, mode, loaded.execution.is_sharded)
        if shortlist is not None and task.several:
            raise UserError(f"score.shortlist= finds one label per row, but rows of {task.name} may have several.")
        alone = shortlist is None and method != "channel"
        alone = alone and (settings.score.norm == "pmi" or loaded.prompt_tokenizer.scores_without_input)
        choices = _unconditional_choices(prompts, settings.score.norm) if alone else {}
        predictions = _score(loaded, settings.eval_batch_size, task.name, unique, encoded, choices, shortlist)
    by_query = dict(zip(unique, predictions, strict=True))
    of_questions = (choices for prompt in prompts for choices in prompt.choices_by_question)
    same = same_choices(loaded.prompt_tokenizer, of_questions)
    answers = [
        Answer(
            tuple(without_lucky_guess(member, choices, same) for member in members),
            settings.icl.combine if context else COMBINATIONS[0],
        )
        for prompt, contexts in zip(prompts, queries, strict=True)
        for choices, members in by_question(
            prompt, [prediction_from(prompt, method, [by_query[query] for query in group]) for group in contexts]
        )
    ]
    return Ranked(answers, encoded, dropped)


def _score(
    loaded: LoadedModel,
    batch_size: int,
    name: str,
    prompts: Sequence[Prompt],
    encoded: Sequence[TokenizedPrompt],
    unconditional_choices: Mapping[str, Sequence[str]],
    shortlist: Shortlist | None = None,
) -> list[Prediction]:
    """Scores every prompt's choices by sums; prompts are split among processes, and all receive all results.

    Batches have prompts of similar length, longest first: little padding, and out-of-memory errors come at once. If
    shared prefixes are computed once (a decoder-only model), prompts with the same context stay together.
    """
    model, prompt_tokenizer, execution = loaded.model, loaded.prompt_tokenizer, loaded.execution
    contexts = {id(item.context_ids): number for number, item in enumerate(encoded) if prompt_tokenizer.decoder_only}
    order = sorted(
        range(len(prompts)),
        key=lambda index: (contexts.get(id(encoded[index].context_ids), 0), -encoded[index].length),
    )
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    own = split_between_processes(batches)
    # with a sharded model all processes run equally many forward passes: an extra one is not counted
    most_batches = len(deal_out(batches, world_size())[0]) if execution.is_sharded else len(own)
    passes = [*own, *batches[:1] * (most_batches - len(own))]
    bar = partial(tqdm, desc=f"Ranking {name}", unit="batch", mininterval=0.5, **bar_options())
    progress = bar(passes) if is_main_process() else passes
    score = (
        partial(score_whole, model, execution.engine)
        if execution.is_sharded
        else BoundedScorer(model, execution.engine, execution.memory_bytes)
    )
    collated = partial(collate, pad_id=prompt_tokenizer.pad_id)
    unconditional = {
        dataset: unconditional_sums(score, prompt_tokenizer.tokenize, collated, choices, execution.device)
        for dataset, choices in unconditional_choices.items()
    }
    in_order = [index for batch in passes for index in batch]
    tokens = (collated([encoded[index] for index in batch]) for batch in progress)
    ranked = rank_classify(
        score, tokens, [prompts[index] for index in in_order], "sum", execution.device, unconditional, shortlist
    )
    scored = list(zip(in_order, ranked, strict=True))[: sum(map(len, own))]
    by_index = dict(pair for pairs in all_gather_objects(scored) for pair in pairs)
    return [by_index[index] for index in range(len(prompts))]


def _fitting_shots(
    loaded: LoadedModel, prompts: Sequence[Prompt], settings: EvaluationSettings, context: InContext | None
) -> tuple[dict[str, Shots], int]:
    """Each template's shots that fit the model's context window, and how many were dropped.

    Raises UserError if any do not fit and `icl.too_long=refuse`, or if none fits.
    """
    window, prompt_tokenizer, icl = window_tokens(loaded.model), loaded.prompt_tokenizer, settings.icl
    if context is None or window is None:
        return dict(context.shots) if context else {}, 0
    fitting, dropped = {}, 0
    for template, shots in context.shots.items():
        rendered = [prompt for prompt in prompts if prompt.template == template]
        queries = [query for prompt in rendered for query in prompts_to_score(prompt, settings.score.method)]
        longest, lengths = lengths_in_context(
            prompt_tokenizer, queries, shots_to_score(shots, settings.score.method), icl.mode
        )
        kept = fitting_shots(lengths, window - longest, icl.mode)
        if len(kept) < len(shots) and (icl.too_long == "refuse" or not kept):
            takes = f"{sum(lengths)} tokens" if icl.mode == "concat" else f"up to {max(lengths)} tokens each"
            raise UserError(
                f"Template {template!r}: {len(shots)} shots take {takes}, the longest query {longest}, and the model's"
                f" window is {window}: fewer shots (icl.shots=), icl.too_long=drop, or shorter queries (max_tokens=)."
            )
        fitting[template] = tuple(shots[index] for index in kept)
        dropped += len(shots) - len(kept)
    if dropped:
        log.info(
            f"Note: {dropped} shots, over {len(fitting)} templates, do not fit the model's window and were dropped."
        )
    return fitting, dropped


def _unconditional_choices(prompts: Sequence[Prompt], norm: str) -> dict[str, list[str]]:
    """The choices of each data set to score after an empty input, if they are few: labels that rows share."""
    by_dataset = defaultdict(list)
    for prompt in prompts:
        by_dataset[prompt.dataset].append(prompt)
    choices = {name: sorted({c for prompt in group for c in prompt.choices}) for name, group in by_dataset.items()}
    return {name: texts for name, texts in choices.items() if norm == "pmi" or len(texts) < len(by_dataset[name])}
