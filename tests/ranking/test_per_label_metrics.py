"""F1, confusion and intervals against another library, closed forms and the definition."""

import random
import warnings
from math import comb

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_f1_score

from tfew.ranking.icl import Answer
from tfew.ranking.label_table import FEW_ROWS, by_label, confusions, doubts
from tfew.ranking.metrics import summarise
from tfew.ranking.per_label_metrics import (
    balanced_accuracy,
    balanced_accuracy_interval,
    confusion,
    f1_macro,
    is_uneven,
    scores_by_class,
    summarise_classes,
    wilson_interval,
)
from tfew.schema import Prediction


@pytest.mark.parametrize("seed", range(20))
def test_against_torchmetrics(seed: int) -> None:
    draw = random.Random(seed)
    classes = draw.randint(2, 6)
    used = draw.randint(1, classes)  # some classes may be neither labels nor predicted
    pairs = [(draw.randrange(used), draw.randrange(used)) for _ in range(draw.randint(1, 40))]
    label, predicted = (torch.tensor(values) for values in zip(*pairs, strict=True))
    counts = confusion(pairs, classes)
    assert counts == multiclass_confusion_matrix(predicted, label, classes).tolist()
    expected = multiclass_f1_score(predicted, label, classes, average="macro")
    assert f1_macro(counts) == pytest.approx(expected.item(), abs=1e-6)
    each = multiclass_f1_score(predicted, label, classes, average="none")
    assert balanced_accuracy(counts) == pytest.approx(_of_sklearn(pairs), abs=1e-12)
    assert [score["f1"] for score in scores_by_class(counts)] == pytest.approx(each.tolist(), abs=1e-6)


def _of_sklearn(pairs: list[tuple[int, int]]) -> float:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true|A single label was found")
        return float(balanced_accuracy_score(*zip(*pairs, strict=True)))


def test_by_hand() -> None:
    scores = scores_by_class([[3, 1], [2, 4]])
    assert (scores[0]["precision"], scores[0]["recall"], scores[0]["f1"]) == pytest.approx((3 / 5, 3 / 4, 2 / 3))
    assert (scores[1]["rows"], scores[1]["predicted"]) == (6, 5)


@pytest.mark.parametrize(("right", "rows"), [(0, 10), (10, 10), (7, 10), (36, 50), (1, 3)])
def test_the_interval_solves_wilsons_equation(right: int, rows: int) -> None:
    """Its ends are the accuracies p from which right / rows is 1.96 standard deviations sqrt(p (1 - p) / rows) away."""
    for end in wilson_interval(right, rows):
        assert (right / rows - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / rows, abs=1e-9)


@pytest.mark.parametrize("truth", [0.5, 0.7, 0.9])
def test_the_interval_holds_the_truth_as_often_as_it_says(truth: float) -> None:
    """Exactly, over all outcomes of 50 rows; coverage of discrete data is about the nominal one."""
    held = 0.0
    for right in range(51):
        low, high = wilson_interval(right, 50)
        held += comb(50, right) * truth**right * (1 - truth) ** (50 - right) * (low <= truth <= high)
    assert 0.93 < held < 0.98


@pytest.mark.parametrize(
    ("rows", "recalls"),
    [
        ((90, 10), (0.95, 0.6)),
        ((45, 5), (1.0, 0.5)),
        ((12,) * 5, (0.8,) * 5),
        ((5,) * 30, (0.7,) * 30),
        ((2, 40), (0.5, 0.9)),
    ],
)
def test_the_interval_of_balanced_accuracy_holds_the_truth(rows: tuple[int, ...], recalls: tuple[float, ...]) -> None:
    draw, truth, held = np.random.default_rng(0), sum(recalls) / len(recalls), 0
    for right in draw.binomial(rows, recalls, size=(2000, len(rows))):
        counts = np.zeros((len(rows), len(rows)), dtype=int)
        np.fill_diagonal(counts, right)
        counts[np.arange(len(rows)), np.arange(len(rows)) - 1] += np.array(rows) - right
        low, high = balanced_accuracy_interval(counts.tolist())
        held += low <= truth <= high
    assert held / 2000 > 0.91


def test_the_interval_of_balanced_accuracy_is_never_a_point() -> None:
    low, high = balanced_accuracy_interval([[5, 0], [0, 3]])
    assert (low, high) == (pytest.approx(0.68, abs=0.01), 1.0)


def test_which_labels_are_uneven() -> None:
    assert [is_uneven([rows, 100 - rows]) for rows in (50, 69, 70, 90, 30)] == [False, False, True, True, True]
    assert [is_uneven([60, 30, 10]), is_uneven([55, 30, 15]), is_uneven([14, *[2] * 43])] == [True, False, False]
    assert is_uneven([40, 0, 0, 40]) is False, "labels without rows do not count"
    assert is_uneven([7, 0])


def made(pairs: list[tuple[int, int]], template: str = "t", choices: int = 2) -> list[Prediction]:
    return [
        Prediction(
            "d", template, idx, label, predicted, tuple(-float(c != predicted) for c in range(choices)), (1,) * choices
        )
        for idx, (label, predicted) in enumerate(pairs)
    ]


def test_several_templates_have_a_median_f1_and_no_table() -> None:
    good, bad, middle = [(0, 0), (1, 1)] * 5, [(0, 1), (1, 0)] * 5, [(0, 0), (1, 0)] * 5
    rows = [p for template, pairs in (("a", good), ("b", bad), ("c", middle)) for p in made(pairs, template)]
    assert summarise_classes(rows, ["x", "y"]) == {"f1_macro": pytest.approx(1 / 3), "balanced_accuracy": 0.5}
    assert "accuracy_interval" not in summarise([Answer.of(p, "token") for p in rows], "token")


def test_a_template_with_other_choices_has_no_classes() -> None:
    assert summarise_classes(made([(0, 0)], choices=3), ["x", "y"]) == {}


def metrics(pairs: list[tuple[int, int]], names: list[str]) -> dict:
    rows = made(pairs, choices=len(names))
    return {**summarise([Answer.of(p, "token") for p in rows], "token"), **summarise_classes(rows, names)}


def test_too_little_data_is_said() -> None:
    few = metrics([(0, 0)] * 6 + [(1, 0)] * 2 + [(1, 1)] * 2, ["no", "yes"])
    (first, second) = doubts(few, 10)
    assert first == (
        "Too little data to tell: with 10 rows an accuracy of 80.0 % may be anywhere from 49.0 to 94.3 %, and always"
        " saying 'no' gives 60.0 %."
    )
    assert second == "Too few rows (below 5) for the numbers of: yes (4)."
    many = metrics([(0, 0)] * 60 + [(1, 0)] * 20 + [(1, 1)] * 20, ["no", "yes"])
    assert doubts(many, 100) == []
    worse = metrics([(0, 1)] * 60 + [(1, 1)] * 40, ["no", "yes"])
    assert doubts(worse, 100) == [
        "Worse than always saying 'no': that gives 60.0 %, this 40.0 % (95 % interval 30.9 to 49.8)."
    ]


def test_tables_as_text() -> None:
    shown = metrics([(0, 0)] * 3 + [(0, 1)] + [(1, 0)] * 2 + [(1, 1)] * 4, ["no", "yes", "never"])
    assert by_label(shown) == [
        "label  precision  recall      F1  rows",
        "no          60.0    75.0    66.7     4",
        "yes         80.0    66.7    72.7     6",
    ]
    assert [line.split() for line in confusions(shown)[1:]] == [
        ["no", "3", "1", "0"],
        ["yes", "2", "4", "0"],
        ["never", "0", "0", "0"],
    ]
    assert "1 of 3 labels have no row here: nothing is known about never." in doubts(shown, 10)


def test_of_many_labels_the_commonest_confusions_are_listed() -> None:
    names = [f"label {number}" for number in range(30)]
    shown = metrics([(3, 7)] * 5 + [(7, 3)] * 2 + [(number, number) for number in range(30)], names)
    assert confusions(shown) == ["label 3 taken for label 7: 5", "label 7 taken for label 3: 2"]


def test_rows_that_are_enough_for_a_label() -> None:
    def text(rows: int) -> str:
        score = {"rows": rows, "predicted": 1, "precision": 1.0, "recall": 1.0, "f1": 1.0}
        metrics = {"accuracy": 0.9, "accuracy_interval": [0.8, 1.0], "chance": 0.5, "classes": {"rare": score}}
        metrics["classes"]["common"] = {**score, "rows": 50}
        return " ".join(doubts(metrics, 100))

    assert "rare" not in text(FEW_ROWS)
    assert "Too few rows (below 5) for the numbers of: rare (4)" in text(FEW_ROWS - 1)
