"""Metrics for labels shared by all rows: confusion, precision, recall, F1, and intervals of accuracies.

Definitions are scikit-learn's.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from math import sqrt
from statistics import median
from typing import Any

from tfew.schema import Prediction

SURE = 1.959964  # standard deviations: 95 %
UNEVEN = 0.4  # labels are imbalanced from here on: 0 is equally many rows each, 1 all rows of one; 70 % of one of two


def confusion(pairs: Sequence[tuple[int, int]], classes: int) -> list[list[int]]:
    """The confusion matrix of (label, predicted) pairs; rows: the label, columns: the prediction."""
    counts = [[0] * classes for _ in range(classes)]
    for label, predicted in pairs:
        counts[label][predicted] += 1
    return counts


def scores_by_class(counts: Sequence[Sequence[int]]) -> list[dict[str, float]]:
    """precision, recall and f1 of each class (0/0 counts as 0), and the numbers of its rows and predictions."""
    scores = []
    for place, row in enumerate(counts):
        right, rows, predicted = row[place], sum(row), sum(other[place] for other in counts)
        scores.append(
            {
                "precision": right / predicted if predicted else 0.0,
                "recall": right / rows if rows else 0.0,
                "f1": 2 * right / (rows + predicted) if rows + predicted else 0.0,
                "rows": rows,
                "predicted": predicted,
            }
        )
    return scores


def f1_macro(counts: Sequence[Sequence[int]]) -> float:
    """The mean F1 over all classes that have a row or a prediction."""
    present = [score["f1"] for score in scores_by_class(counts) if score["rows"] or score["predicted"]]
    return sum(present) / len(present)


def balanced_accuracy(counts: Sequence[Sequence[int]]) -> float:
    """The mean recall over all classes with rows."""
    recalls = [score["recall"] for score in scores_by_class(counts) if score["rows"]]
    return sum(recalls) / len(recalls)


def balanced_accuracy_interval(counts: Sequence[Sequence[int]]) -> tuple[float, float]:
    """95 % interval by normal approximation; each recall's variance with two right and two wrong rows added.

    (Agresti and Coull 1998.) So a few rows, all right or all wrong, do not give an interval of zero width.
    """
    classes = [(sum(row), (row[place] + 2) / (sum(row) + 4)) for place, row in enumerate(counts) if sum(row)]
    half = SURE * sqrt(sum(share * (1 - share) / rows for rows, share in classes)) / len(classes)
    centre = balanced_accuracy(counts)
    return max(0.0, centre - half), min(1.0, centre + half)


def is_uneven(rows_by_label: Collection[int]) -> bool:
    """Whether labels are so imbalanced that accuracy is uninformative; labels without rows are left out."""
    rows = [count for count in rows_by_label if count]
    total, labels = sum(rows), len(rows)
    return max(rows) * labels - total >= UNEVEN * total * (labels - 1)


def wilson_interval(right: int, rows: int) -> tuple[float, float]:
    """95 % interval of an accuracy (Wilson 1927): valid for few rows and near 0 and 1, unlike the normal one."""
    share, spread = right / rows, SURE**2 / rows
    centre = (share + spread / 2) / (1 + spread)
    half = sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def label_places(
    predictions: Sequence[Prediction], names: Sequence[str], unknown: Mapping[int, str]
) -> list[int | None]:
    """For each prediction the index of its row's label in `class_names`; None if it has none."""
    places = {name: place for place, name in enumerate(class_names(names, unknown))}
    return [places[unknown[p.idx]] if p.idx in unknown else p.label for p in predictions]


def class_names(names: Sequence[str], unknown: Mapping[int, str]) -> list[str]:
    """The task's labels, followed by the unknown labels of rows (`unknown`, by `idx`)."""
    return [*names, *sorted(set(unknown.values()))]


def summarise_classes(
    predictions: Sequence[Prediction], names: Sequence[str], unknown: Mapping[int, str] | None = None
) -> dict[str, Any]:
    """f1_macro and balanced_accuracy (medians over templates), and for a single template more.

    These are classes: {name: {...}}, confusion, balanced_accuracy_interval, and leading_metric: "balanced_accuracy" if
    labels are imbalanced, else "accuracy". Empty if a template's choices are not one for each name. `unknown`: by `idx`
    the labels that are not among the choices; each is a class that is never predicted.
    """
    if any(len(prediction.scores) != len(names) for prediction in predictions):
        return {}
    labels = label_places(predictions, names, unknown or {})
    names = class_names(names, unknown or {})
    by_template = defaultdict(list)
    for prediction, label in zip(predictions, labels, strict=True):
        if label is not None:
            by_template[prediction.template].append((label, prediction.predicted))
    tables = [confusion(pairs, len(names)) for pairs in by_template.values()]
    summary: dict[str, Any] = {
        "f1_macro": median(map(f1_macro, tables)),
        "balanced_accuracy": median(map(balanced_accuracy, tables)),
    }
    if len(tables) == 1:
        (counts,) = tables
        summary["classes"] = dict(zip(names, scores_by_class(counts), strict=True))
        summary["confusion"] = counts
        summary["balanced_accuracy_interval"] = balanced_accuracy_interval(counts)
        summary["leading_metric"] = "balanced_accuracy" if is_uneven([*map(sum, counts)]) else "accuracy"
    return summary
