"""Choices that are the same to the model: no score can tell them apart, and no guess among them counts as right.

Two texts may have the same tokens (upper case, characters outside the vocabulary), or be equal after truncation to
`max_tokens`. If the right choice shares the best score with such a choice, the other one is predicted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isclose
from typing import TYPE_CHECKING

from tfew.schema import Prediction, Prompt

if TYPE_CHECKING:
    from tfew.data.tokenization import PromptTokenizer


def same_choices(
    prompt_tokenizer: "PromptTokenizer", choices: Iterable[tuple[str, ...]]
) -> dict[tuple[str, ...], tuple[int, ...]]:
    """For each choice the index of the first one with the same tokens; only for tuples with equal ones."""
    distinct = list(dict.fromkeys(choices))
    texts = tuple(dict.fromkeys(text for some in distinct for text in some))
    if not texts:
        return {}
    (encoded,) = prompt_tokenizer.tokenize([Prompt("", "", 0, "x", texts, None)])  # after any input
    tokens = dict(zip(texts, map(tuple, encoded.choice_ids), strict=True))
    places = {some: _first_places([tokens[text] for text in some]) for some in distinct}
    return {some: place for some, place in places.items() if place != tuple(range(len(place)))}


def _first_places(tokens: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    first: dict[tuple[int, ...], int] = {}
    return tuple(first.setdefault(ids, place) for place, ids in enumerate(tokens))


def best_of(scores: Sequence[float], label: int | None, same: Sequence[int] | None) -> int:
    """The index of the highest score; ties go to the first, but not to the label if another is `same`."""
    best = max(range(len(scores)), key=scores.__getitem__)
    if same is None or label is None or same[best] != same[label]:
        return best
    shared = [
        place
        for place, first in enumerate(same)
        if first == same[label] and place != label and isclose(scores[place], scores[best], rel_tol=1e-6, abs_tol=1e-9)
    ]
    return shared[0] if shared else best


def without_lucky_guess(
    prediction: Prediction, choices: tuple[str, ...], same: Mapping[tuple[str, ...], tuple[int, ...]]
) -> Prediction:
    """The prediction with `same` choices recorded, and ties among them not counted as right."""
    if choices not in same:
        return prediction
    places = same[choices]
    return replace(prediction, same=places, predicted=best_of(prediction.scores, prediction.label, places))
