"""Numbers for labels that mean the same in every row: confusion, precision, recall, F1, and how sure accuracies are.

Definitions are scikit-learn's.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from math import sqrt
from statistics import median
from typing import Any

from tfew.schema import Prediction

SURE = 1.959964  # standard deviations: 95 %
UNEVEN = 0.4  # from which on labels are uneven: 0 is equally many rows of each, 1 all rows of one; 70 % of one of two


def confusion(pairs: Sequence[tuple[int, int]], classes: int) -> list[list[int]]:
    """Rows: the label; columns: what was predicted; from pairs of them."""
    counts = [[0] * classes for _ in range(classes)]
    for label, predicted in pairs:
        counts[label][predicted] += 1
    return counts


def scores_by_class(counts: Sequence[Sequence[int]]) -> list[dict[str, float]]:
    """precision, recall and f1 of each class (0 where there is nothing to divide by), its rows and its predictions."""
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
    """The mean F1 over all classes that some row has or that were predicted for one."""
    present = [score["f1"] for score in scores_by_class(counts) if score["rows"] or score["predicted"]]
    return sum(present) / len(present)


def balanced_accuracy(counts: Sequence[Sequence[int]]) -> float:
    """The mean recall over all classes that some row has."""
    recalls = [score["recall"] for score in scores_by_class(counts) if score["rows"]]
    return sum(recalls) / len(recalls)


def balanced_accuracy_interval(counts: Sequence[Sequence[int]]) -> tuple[float, float]:
    """95 % interval: normal, the variance of each recall with two rows added to those that are right and to the others.

    (Agresti and Coull 1998.) So few rows, all right or all wrong, do not give an interval of no width.
    """
    classes = [(sum(row), (row[place] + 2) / (sum(row) + 4)) for place, row in enumerate(counts) if sum(row)]
    half = SURE * sqrt(sum(share * (1 - share) / rows for rows, share in classes)) / len(classes)
    centre = balanced_accuracy(counts)
    return max(0.0, centre - half), min(1.0, centre + half)


def is_uneven(rows_by_label: Collection[int]) -> bool:
    """Whether so many rows have the commonest label that an accuracy says little; labels without rows are left out."""
    rows = [count for count in rows_by_label if count]
    total, labels = sum(rows), len(rows)
    return max(rows) * labels - total >= UNEVEN * total * (labels - 1)


def wilson_interval(right: int, rows: int) -> tuple[float, float]:
    """95 % interval of an accuracy (Wilson 1927): right for few rows and near 0 and 1, unlike the normal one."""
    share, spread = right / rows, SURE**2 / rows
    centre = (share + spread / 2) / (1 + spread)
    half = sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def label_places(
    predictions: Sequence[Prediction], names: Sequence[str], unknown: Mapping[int, str]
) -> list[int | None]:
    """Of each prediction the place of its row's label among `class_names`; None where it has none."""
    places = {name: place for place, name in enumerate(class_names(names, unknown))}
    return [places[unknown[p.idx]] if p.idx in unknown else p.label for p in predictions]


def class_names(names: Sequence[str], unknown: Mapping[int, str]) -> list[str]:
    """The task's labels, and behind them those of rows that have none of these, by `idx` in `unknown`."""
    return [*names, *sorted(set(unknown.values()))]


def summarise_classes(
    predictions: Sequence[Prediction], names: Sequence[str], unknown: Mapping[int, str] | None = None
) -> dict[str, Any]:
    """f1_macro and balanced_accuracy (medians over templates), and of a single template more.

    That is classes: {name: {...}}, confusion, balanced_accuracy_interval, and leading_metric: "balanced_accuracy" where
    labels are uneven, else "accuracy". Nothing where a template has other choices than one for each name. `unknown`: by
    `idx` the labels that are none of the choices; each is a class that is never predicted.
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
