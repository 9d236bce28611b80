"""Numbers for labels that mean the same in every row: confusion, precision, recall, F1, and how sure an accuracy is.

Definitions are scikit-learn's.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import median
from typing import Any

from tfew.schema import Prediction

SURE = 1.959964  # standard deviations: 95 %


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


def wilson_interval(right: int, rows: int) -> tuple[float, float]:
    """95 % interval of an accuracy (Wilson 1927): right for few rows and near 0 and 1, unlike the normal one."""
    share, spread = right / rows, SURE**2 / rows
    centre = (share + spread / 2) / (1 + spread)
    half = sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def summarise_classes(
    predictions: Sequence[Prediction], names: Sequence[str], unknown: Mapping[int, str] | None = None
) -> dict[str, Any]:
    """f1_macro (median over templates), and of a single template also classes: {name: {...}}, confusion, majority.

    majority: the accuracy of always giving the commonest label. Nothing where a template has other choices than one
    for each name. `unknown`: by `idx` the labels that are none of the choices; each is a class that is never predicted.
    """
    unknown = unknown or {}
    choices, names = len(names), [*names, *sorted(set(unknown.values()))]
    by_template = defaultdict(list)
    for prediction in predictions:
        if len(prediction.scores) != choices:
            return {}
        label = names.index(unknown[prediction.idx]) if prediction.idx in unknown else prediction.label
        if label is not None:
            by_template[prediction.template].append((label, prediction.predicted))
    tables = [confusion(pairs, len(names)) for pairs in by_template.values()]
    summary: dict[str, Any] = {"f1_macro": median(map(f1_macro, tables))}
    if len(tables) == 1:
        (counts,) = tables
        summary["classes"] = dict(zip(names, scores_by_class(counts), strict=True))
        summary["confusion"] = counts
        summary["majority"] = max(map(sum, counts)) / sum(map(sum, counts))
    return summary
