"""Tokenises a text and its continuation together, as one text.

Tokens depend on their neighbours: in byte-level BPE two line breaks are one token at the end of a text and two before
a word. lm-evaluation-harness (0.4.13, `_encode_pair`) therefore encodes context and continuation together, and drops
as many tokens as the context has alone; the rest are the continuation's. This module does the same.

A long text with many continuations is not tokenised with each of them, since only the tokens at its end can change.
Only a tail that begins at a word well before the end is retokenised, if alone it has the same tokens as in the text.
"""

from collections.abc import Iterator, Sequence
from typing import Any

TAIL_CHARACTERS = 32  # minimum length of a text's tail that is retokenised together with its continuation


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text, without special tokens; duplicate texts are tokenised once."""
    unique = list(dict.fromkeys(texts))
    ids = dict(zip(unique, tokenizer(unique, add_special_tokens=False)["input_ids"], strict=True)) if unique else {}
    return [ids[text] for text in texts]


def tokenize_with_ends(
    tokenizer: Any, texts: Sequence[str], ends: Sequence[Sequence[str]]
) -> list[tuple[list[int], list[list[int]]]]:
    """For each text, which any of its `ends` may follow: the tokens before the end, and those of each end."""
    ids = token_ids(tokenizer, texts)
    tails = _tails(tokenizer, texts, ids)
    joined = iter(token_ids(tokenizer, [tail + end for (tail, _), own in zip(tails, ends, strict=True) for end in own]))
    found = []
    for text_ids, (_, tail_ids), own in zip(ids, tails, ends, strict=True):
        before, end_ids = _split(tail_ids, [next(joined) for _ in own])
        found.append(([*text_ids[: len(text_ids) - len(tail_ids)], *before], end_ids))
    return found


def split_beginning(tokenizer: Any, text: str) -> tuple[list[int], str]:
    """The tokens of a text that stay the same whatever follows it, and the remaining text."""
    (ids,) = token_ids(tokenizer, [text])
    ((tail, tail_ids),) = _tails(tokenizer, [text], [ids])
    return ids[: len(ids) - len(tail_ids)], tail


def _tails(tokenizer: Any, texts: Sequence[str], ids: Sequence[list[int]]) -> list[tuple[str, list[int]]]:
    """For each text, whose tokens are `ids`, a tail with the same tokens alone as in the text: its text and tokens.

    It begins with a word; if no such tail is found, it is the whole text.
    """
    found: dict[int, tuple[str, list[int]]] = {}
    candidates = [list(_words(text)) for text in texts]
    for attempt in range(max(map(len, candidates), default=0)):
        open_ = [index for index in range(len(texts)) if index not in found and attempt < len(candidates[index])]
        tail_texts = [texts[index][candidates[index][attempt] :] for index in open_]
        for index, text, tail_ids in zip(open_, tail_texts, token_ids(tokenizer, tail_texts), strict=True):
            if tail_ids and ids[index][-len(tail_ids) :] == tail_ids:
                found[index] = text, tail_ids
    return [found.get(index, (text, list(ids[index]))) for index, text in enumerate(texts)]


def _words(text: str) -> Iterator[int]:
    """Start of the last word that is far enough from the end: first at the space before it, then after the space.

    Tokenizers that prepend a space to every text (Llama 2, Mistral) need the second.
    """
    end = len(text) - TAIL_CHARACTERS
    while (end := text.rfind(" ", 0, max(end, 0))) > 0:
        if text[end - 1].isalpha() and text[end + 1].isalpha():
            yield from (end, end + 1)
            return


def _split(alone: list[int], joined: Sequence[list[int]]) -> tuple[list[int], list[list[int]]]:
    """The tokens before the ends, and those of each end.

    `alone`: a text's tokens without continuation; `joined`: those of the text with each of its ends. By default an end
    begins after as many tokens as the text has alone. If the tokens before that differ between ends, or an end is left
    without tokens, all ends begin at the first token where any of them differs from the text alone.
    """
    if not joined:
        return alone, []
    size = len(alone)
    if any(ids[:size] != joined[0][:size] or len(ids) <= size for ids in joined):
        size = min(_agreement(alone, ids) for ids in joined)
    return joined[0][:size], [ids[size:] for ids in joined]


def _agreement(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(first), len(second)))
