"""How much of the context window solved examples and the longest query take, tokenised as for scoring."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from tfew.data.tokenization import PromptTokenizer, TokenizedPrompt
from tfew.ranking.icl import Shots
from tfew.schema import Prompt

SLACK_TOKENS = 16  # above the difference in a text's number of tokens, alone and after shots


def lengths_in_context(
    prompt_tokenizer: PromptTokenizer, queries: Sequence[Prompt], shots: Shots, mode: str
) -> tuple[int, list[int]]:
    """Tokens of the longest of these queries with its longest choice, and of each shot; see `tfew.ranking.icl`.

    In one context (`concat`) a shot's tokens are those it adds to the shots after it.
    """
    contexts = [shots[first:] for first in range(len(shots))] if mode == "concat" else [(shot,) for shot in shots]
    without = prompt_tokenizer.context_length(())
    totals = [prompt_tokenizer.context_length(context) for context in contexts]
    lengths = [total - without for total in totals]
    if mode == "concat":
        lengths = [total - rest for total, rest in itertools.pairwise([*totals, without])]
        contexts, totals = contexts[:1], totals[:1]
    longest = _longest(prompt_tokenizer, queries)
    behind = [
        _length(prompt_tokenizer, item) - total
        for context, total in zip(contexts, totals, strict=True)
        for item in prompt_tokenizer.tokenize([replace(query, shots=context) for query in longest])
    ]
    return without + max(behind, default=0), lengths


def _longest(prompt_tokenizer: PromptTokenizer, queries: Sequence[Prompt]) -> list[Prompt]:
    """The candidates for the longest query after shots."""
    lengths = [_length(prompt_tokenizer, item) for item in prompt_tokenizer.tokenize(queries)]
    at_least = max(lengths, default=0) - SLACK_TOKENS
    return [query for query, length in zip(queries, lengths, strict=True) if length >= at_least]


def _length(prompt_tokenizer: PromptTokenizer, item: TokenizedPrompt) -> int:
    """Of the input, which in a decoder-only model the choices follow."""
    return item.length + (max(map(len, item.choice_ids), default=0) if prompt_tokenizer.decoder_only else 0)
