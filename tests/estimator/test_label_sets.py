"""Several labels per row: one form and one order in `fit`, `predict`, `predict_proba` and `score`."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.estimator.test_classifier import TEXTS, quick
from tfew import TfewClassifier
from tfew.errors import UserError

COLUMNS = pd.DataFrame({"b_fruit": [1, 0] * 8, " a_speed": [1, 1, 0, 0] * 4})
LISTS = [["x"] * (n % 2) + ["y"] * (n % 3 == 0) for n in range(16)]


@pytest.fixture(scope="module")
def columns() -> TfewClassifier:
    return quick(choices={"a_speed": "speed", "b_fruit": "fruit"}).fit(TEXTS, COLUMNS)


@pytest.fixture(scope="module")
def lists() -> TfewClassifier:
    return quick().fit(TEXTS, LISTS)


def test_columns_are_in_the_order_of_y(columns: TfewClassifier) -> None:
    """Also where `choices=` names the labels in another one."""
    assert list(columns.classes_) == ["b_fruit", "a_speed"]
    (row, *_), (predicted, *_) = columns.predict_proba(TEXTS), columns.predict(TEXTS)
    (found,) = columns.predictor(TEXTS[:1])
    assert list(row) == [found.probabilities["b_fruit"], found.probabilities["a_speed"]]
    assert list(predicted) == [int("b_fruit" in found.label_set), int("a_speed" in found.label_set)]


def test_score_reads_the_forms_that_predict_gives(columns: TfewClassifier) -> None:
    predicted = columns.predict(TEXTS)
    named = pd.DataFrame(predicted, columns=list(COLUMNS.columns))
    for form in (predicted, named, named[[" a_speed", "b_fruit"]]):
        assert columns.score(TEXTS, form) == 1
    assert columns.score(TEXTS, 1 - predicted) == 0
    expected = float((predicted == COLUMNS.to_numpy()).all(-1).mean())
    assert columns.score(TEXTS, COLUMNS) == expected
    for wrong in (named.rename(columns={"b_fruit": "c"}), named.assign(c=1), np.ones((16, 3))):
        with pytest.raises(
            UserError, match=r"The labels have the columns .*, but in `fit` they had 'a_speed', 'b_fruit'"
        ):
            columns.score(TEXTS, wrong)


def test_score_of_lists(lists: TfewClassifier) -> None:
    predicted = lists.predict(TEXTS)
    assert lists.score(TEXTS, predicted) == 1
    assert lists.score(TEXTS, [[name.upper() for name in row] for row in predicted]) == 1, (
        "as `tfew evaluate` reads them"
    )
    assert lists.score(TEXTS, [[*row, "zzz"] for row in predicted]) == 0, "a label that was not given is not right"
    right = [set(row) == set(given) for row, given in zip(predicted, LISTS, strict=True)]
    assert lists.score(TEXTS, LISTS) == np.mean(right)


def test_score_of_texts_with_a_separator_of_ones_own() -> None:
    joined = ["/".join(row) for row in LISTS]
    fitted = quick(settings={"trainer": "cpu", "separator": "/", "multi_label": True}).fit(TEXTS, joined)
    assert fitted.score(TEXTS, ["/".join(row) for row in fitted.predict(TEXTS)]) == 1


def test_numbers_in_lists_come_back_as_numbers() -> None:
    numbers = [[1] * (n % 2) + [20] * (n % 3 == 0) for n in range(16)]
    fitted = quick().fit(TEXTS, numbers)
    assert fitted.classes_.tolist() == [1, 20]
    predicted: list[list[Any]] = fitted.predict(TEXTS)
    assert {type(item) for row in predicted for item in row} <= {int}
    assert fitted.score(TEXTS, predicted) == 1
