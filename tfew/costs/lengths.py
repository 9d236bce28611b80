"""The lengths of a run's texts in tokens, and its longest batches."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import mean, median

from tfew.data.tokenization import PromptTokenizer, TokenizedPrompt, collate
from tfew.models.blueprint import Blueprint
from tfew.placement.position_table import position_tables, within_window
from tfew.schema import Batch, Prompt
from tfew.task import Task

MOST_ROWS = 1000  # whose lengths are measured; of more rows, an evenly spaced sample of this size
SPECIAL_TOKENS = 128  # more than a chat template and the end of a text add
CANDIDATES = 8  # times the batch size: the longest by characters, from which the longest by tokens are selected


@dataclass(frozen=True)
class Spread:
    median: float
    mean: float


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompts as the model sees them: truncated at max_tokens, with end-of-text; numbers of prompts and rows.

    `query` is an input with all its choices, which is what ranking computes; `shot` an input with its right choice (of
    each of its questions), which is an example's length in a context; None where no right choice is known.
    """

    rows: int
    prompts: int
    cut_prompts: int
    query: Spread
    shot: Spread | None


def measure(prompts: Sequence[Sequence[Prompt]], prompt_tokenizer: PromptTokenizer) -> Lengths:
    """Lengths of every prompt of each row."""
    step = max(1, len(prompts) / MOST_ROWS)
    rows = [prompts[int(number * step)] for number in range(min(len(prompts), MOST_ROWS))]
    encoded = prompt_tokenizer.tokenize([prompt for row in rows for prompt in row])
    shots = [tokens for item in encoded if (tokens := _tokens_with_right_choice(item)) is not None]
    return Lengths(
        rows=len(rows),
        prompts=len(encoded),
        cut_prompts=sum(item.cut_tokens + item.cut_choice_tokens > 0 for item in encoded),
        query=_spread(map(tokens_of, encoded)),
        shot=_spread(shots) if shots else None,
    )


def check_lengths(blueprint: Blueprint, prompt_tokenizer: PromptTokenizer, *tasks: Task | None) -> None:
    """Raises UserError if a text is longer than the model's table of positions.

    The texts of a mixture, which may be very many, are not checked, nor those that have too few bytes.
    """
    model = blueprint.shape()
    if tables := [table for table in position_tables(model) if table is not None]:
        own = [task for task in tasks if task is not None and task.mixture is None]
        enough = min(tables) - SPECIAL_TOKENS  # a token is at least a byte
        long = [p for task in own for row in task.prompts for p in row if _bytes(p) > enough]
        within_window(model, prompt_tokenizer.tokenize(long), blueprint.execution.engine)


def longest_training_batch(
    prompts: Sequence[Sequence[Prompt]], prompt_tokenizer: PromptTokenizer, size: int, compares_choices: bool = True
) -> Batch:
    """The longest prompts of the longest rows: a step trains on different rows, each with one of its templates.

    Of very many rows, an evenly spaced sample is used. `compares_choices`: of the loss; if false, a step computes only
    the right choices.
    """
    step = max(1, len(prompts) / MOST_ROWS)
    rows = [prompts[int(number * step)] for number in range(min(len(prompts), max(size, MOST_ROWS)))]
    batch = _longest([max(row, key=_characters) for row in rows], prompt_tokenizer, size)
    return batch if compares_choices else batch.right_choices()


def longest_scoring_batch(prompts: Sequence[Prompt], prompt_tokenizer: PromptTokenizer, size: int) -> Batch:
    return _longest(prompts, prompt_tokenizer, size)


def assumed_batch(size: int, query_tokens: int, choices: int = 2, choice_tokens: int = 4) -> Batch:
    """Without data: texts of this length including all their choices, none of which share a prefix."""
    texts = [
        TokenizedPrompt(
            [2] * (query_tokens - choices * choice_tokens),
            [[2 + choice] * (choice_tokens - 1) + [1] for choice in range(choices)],
            label=0,
            cut_tokens=0,
            cut_choice_tokens=0,
        )
        for _ in range(size)
    ]
    return collate(texts, pad_id=0)


def tokens_of(item: TokenizedPrompt) -> int:
    return item.length + sum(map(len, item.choice_ids))


def _tokens_with_right_choice(item: TokenizedPrompt) -> int | None:
    """None if it is not known."""
    labels = item.labels or (item.label,)
    if min(labels) < 0:
        return None
    choices = len(item.choice_ids) // len(labels)  # of a question
    right = [item.choice_ids[question * choices + label] for question, label in enumerate(labels)]
    return item.length + sum(map(len, right))


def _longest(prompts: Sequence[Prompt], prompt_tokenizer: PromptTokenizer, size: int) -> Batch:
    encoded = prompt_tokenizer.tokenize(sorted(prompts, key=_characters, reverse=True)[: CANDIDATES * size])
    return collate(sorted(encoded, key=tokens_of, reverse=True)[:size], prompt_tokenizer.pad_id)


def _characters(prompt: Prompt) -> int:
    return sum(map(len, [prompt.input, *prompt.choices, *chain.from_iterable(prompt.shots)]))


def _bytes(prompt: Prompt) -> int:
    return len("".join([prompt.input, *prompt.choices]).encode("utf-8", "surrogatepass"))


def _spread(values: Iterable[int]) -> Spread:
    values = list(values)
    return Spread(float(median(values)), float(mean(values)))
