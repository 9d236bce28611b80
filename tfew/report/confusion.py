"""Confusions: a matrix, or for many classes the most frequent mistakes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

MAX_CLASSES = 12  # of a readable matrix
MAX_PAIRS = 10


@dataclass(frozen=True)
class Confusion:
    """`counts[right][answered]`; for many classes empty, and `pairs` are the most common (right, answered, count)."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[str, str, int], ...]
    answers: int
    right: int


def confusion_of(counts: Counter[tuple[int, int]], classes: Sequence[str]) -> Confusion:
    """From the count of each (right, answered) pair."""
    count, few = len(classes), len(classes) <= MAX_CLASSES
    wrong = [(pair, number) for pair, number in counts.most_common() if pair[0] != pair[1] and number]
    return Confusion(
        tuple(classes),
        tuple(tuple(counts[right, answered] for answered in range(count)) for right in range(count)) if few else (),
        () if few else tuple((classes[pair[0]], classes[pair[1]], number) for pair, number in wrong[:MAX_PAIRS]),
        counts.total(),
        sum(number for (right, answered), number in counts.items() if right == answered),
    )
