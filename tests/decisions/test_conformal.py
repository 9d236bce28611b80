"""Sets of labels: how often they hold the right one, against the promise and a slow reading of the definition."""

import math

import numpy as np
import pytest

from tests.decisions.rows import draw, softmax
from tfew.decisions.conformal import label_level, label_set, rows_needed
from tfew.ranking.temperature import fitted_temperature, probabilities


def slow_set(known: np.ndarray, label: np.ndarray, new: np.ndarray, share: float) -> set[int]:
    """Vovk's way: a label is in the set unless too many held-out rows conform better than the new row with it.

    The new row with a label has the p value (number of rows, itself included, whose right label is no more probable)
    over n + 1; the label is left out where that is at most 1 - share.
    """
    rows = len(label)
    right = [known[row, label[row]] for row in range(rows)]
    found = set()
    for choice, probability in enumerate(new):
        as_strange = sum(other <= probability for other in right) + 1
        if as_strange > math.floor(round((rows + 1) * (1 - share), 9)):
            found.add(choice)
    return found | {int(new.argmax())}


@pytest.mark.parametrize("share", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("rows", [3, 9, 19, 48])
def test_sets_are_those_of_the_definition(rows: int, share: float) -> None:
    rng = np.random.default_rng(rows)
    scores, label = draw(rng, rows)
    known, new = softmax(scores), softmax(draw(rng, 30)[0])
    level = label_level(known[np.arange(rows), label], share)
    for probability in new:
        found = label_set({str(choice): float(p) for choice, p in enumerate(probability)}, level)
        assert {int(name) for name in found} == slow_set(known, label, probability, share)
        assert [probability[int(name)] for name in found] == sorted((probability[int(n)] for n in found), reverse=True)


@pytest.mark.parametrize("share", [0.8, 0.9])
@pytest.mark.parametrize("fitted", [False, True])
def test_the_promise_is_kept(share: float, fitted: bool) -> None:
    """Over 400 draws of held-out and new rows; with the temperature fitted to the same held-out rows over 80."""
    rng, held, tries = np.random.default_rng(1), 40, 80 if fitted else 400
    found = []
    for _ in range(tries):
        scores, label = draw(rng, held + 200, temperature=1.7)
        temperature = fitted_temperature(scores[:held], label[:held]) if fitted else 1.0
        probability = probabilities(scores, temperature)
        right = probability[np.arange(held + 200), label]
        level = label_level(right[:held], share)
        assert level is not None
        found.append(np.mean((right[held:] >= level) | (probability[held:].argmax(1) == label[held:])))
    wobble = np.std(found) / math.sqrt(tries)
    assert share - 2.6 * wobble <= np.mean(found) <= share + 1 / (held + 1) + 2.6 * wobble + 0.01


def test_two_labels_do_not_feel_the_temperature() -> None:
    """What is promised is exact for them: the sets are the same at any temperature."""
    rng = np.random.default_rng(3)
    scores, label = draw(rng, 30, labels=2)
    new, _ = draw(rng, 50, labels=2)
    sets = []
    for temperature in (0.5, 1.0, 3.0):
        known = probabilities(scores, temperature)
        level = label_level(known[np.arange(30), label], 0.95)
        sets.append([label_set({"a": float(a), "b": float(b)}, level) for a, b in probabilities(new, temperature)])
    assert sets[0] == sets[1] == sets[2]
    assert {len(found) for found in sets[0]} == {1, 2}


def test_too_few_rows_leave_no_label_out() -> None:
    assert rows_needed(0.9) == 9
    assert rows_needed(0.95) == 19
    assert rows_needed(0.5) == 1
    for share in (0.5, 0.7, 0.9, 0.95, 0.99):
        needed = rows_needed(share)
        assert label_level(np.full(needed, 0.5), share) is not None
        assert label_level(np.full(needed - 1, 0.5), share) is None
    assert label_set({"a": 0.2, "b": 0.7, "c": 0.1}, None) == ("b", "a", "c")


def test_a_set_is_never_empty() -> None:
    assert label_set({"a": 0.4, "b": 0.6}, 0.9) == ("b",)
    assert label_set({"a": 0.5, "b": 0.5}, 0.9) == ("a",), "the label that is predicted: the first"
