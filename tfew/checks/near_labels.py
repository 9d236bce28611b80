"""Labels whose words differ only in order, plural endings, case or punctuation.

To a model they are nearly one label, and often to people, too.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

SHORTEST = 3  # letters that the singular has
ENDINGS = (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss"), ("xes", "x"), ("s", ""))  # of English plurals


def near_identical(words: Sequence[str]) -> list[list[int]]:
    """Groups of indices of such texts, in order; texts without any letter or digit are ignored."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, text in enumerate(words):
        if key := _key(text):
            groups[key].append(place)
    return [group for group in groups.values() if len(group) > 1]


def _key(text: str) -> tuple[str, ...]:
    return tuple(sorted(_singular(word) for word in re.findall(r"[^\W_]+", text.casefold())))


def _singular(word: str) -> str:
    for ending, instead in ENDINGS:
        stem = word.removesuffix(ending)
        if stem != word and len(stem + instead) >= SHORTEST and not word.endswith(("ss", "us", "is")):
            return stem + instead
    return word
