"""Truncation of texts, or of their parts, that have too many tokens."""

import itertools
from collections.abc import Sequence

Span = tuple[int, int]  # of characters


def truncate(ids: list[int], max_tokens: int, keep_last: bool) -> tuple[list[int], int]:
    """The first ids (with `keep_last`, followed by the very last one), and the number of ids that are left out."""
    cut = max(0, len(ids) - max_tokens)
    if not cut:
        return ids, 0
    return ([*ids[: max_tokens - 1], ids[-1]] if keep_last else ids[:max_tokens]), cut


def even_limit(lengths: Sequence[int], room: int) -> int:
    """The largest common limit on the lengths with which their sum is at most `room`."""
    for position, length in enumerate(rising := sorted(lengths)):
        share = room // (len(rising) - position)
        if share < length:
            return share
        room -= length
    return max(rising, default=0)


def split_at(text: str, spans: Sequence[Span]) -> list[str]:
    """Splits the text into parts, alternately outside and inside the spans."""
    bounds = [0, *(place for span in spans for place in span), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(bounds)]


def shifted(spans: Sequence[Span], by: int, end: int) -> list[Span]:
    """The spans of a text that is truncated at `end` and then preceded by `by` characters."""
    return [(min(start, end) + by, min(stop, end) + by) for start, stop in spans]
