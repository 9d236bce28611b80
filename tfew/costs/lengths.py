"""How long the texts of a run are in tokens, and which of its batches are the longest."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import mean, median

from tfew.data.tokenization import PromptTokenizer, TokenizedPrompt, collate
from tfew.schema import Batch, Prompt

MOST_ROWS = 1000  # of which lengths are measured; of more rows, so many at even distances
CANDIDATES = 8  # times the batch size: the longest by characters, of which the longest by tokens are picked


@dataclass(frozen=True)
class Spread:
    median: float
    mean: float


@dataclass(frozen=True)
class Lengths:
    """Tokens of so many prompts of so many rows, as they pass the model: cut at max_tokens, end-of-text counted.

    `query` is an input with all its choices, which is what ranking computes; `shot` an input with its right choice,
    which is an example's length in a context; None where no right choice is known.
    """

    rows: int
    prompts: int
    cut_prompts: int
    query: Spread
    shot: Spread | None


def measure(prompts: Sequence[Sequence[Prompt]], prompt_tokenizer: PromptTokenizer) -> Lengths:
    """Of each row every prompt."""
    step = max(1, len(prompts) / MOST_ROWS)
    rows = [prompts[int(number * step)] for number in range(min(len(prompts), MOST_ROWS))]
    encoded = prompt_tokenizer.tokenize([prompt for row in rows for prompt in row])
    shots = [len(item.input_ids) + len(item.choice_ids[item.label]) for item in encoded if item.label >= 0]
    return Lengths(
        rows=len(rows),
        prompts=len(encoded),
        cut_prompts=sum(item.cut_tokens + item.cut_choice_tokens > 0 for item in encoded),
        query=_spread(map(tokens_of, encoded)),
        shot=_spread(shots) if shots else None,
    )


def longest_training_batch(prompts: Sequence[Sequence[Prompt]], prompt_tokenizer: PromptTokenizer, size: int) -> Batch:
    """A step trains on different rows, each in one of its wordings: the longest wordings of the longest rows.

    Where there are very many rows, those at even distances are looked at.
    """
    step = max(1, len(prompts) / MOST_ROWS)
    rows = [prompts[int(number * step)] for number in range(min(len(prompts), max(size, MOST_ROWS)))]
    return _longest([max(row, key=_characters) for row in rows], prompt_tokenizer, size)


def longest_scoring_batch(prompts: Sequence[Prompt], prompt_tokenizer: PromptTokenizer, size: int) -> Batch:
    return _longest(prompts, prompt_tokenizer, size)


def assumed_batch(size: int, query_tokens: int, choices: int = 2, choice_tokens: int = 4) -> Batch:
    """Where there are no data: texts of this length with all their choices, none of which shares a beginning."""
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


def _longest(prompts: Sequence[Prompt], prompt_tokenizer: PromptTokenizer, size: int) -> Batch:
    encoded = prompt_tokenizer.tokenize(sorted(prompts, key=_characters, reverse=True)[: CANDIDATES * size])
    return collate(sorted(encoded, key=tokens_of, reverse=True)[:size], prompt_tokenizer.pad_id)


def _characters(prompt: Prompt) -> int:
    return sum(map(len, [prompt.input, *prompt.choices, *chain.from_iterable(prompt.shots)]))


def _spread(values: Iterable[int]) -> Spread:
    values = list(values)
    return Spread(float(median(values)), float(mean(values)))
