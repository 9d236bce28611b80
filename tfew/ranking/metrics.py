"""From predictions to numbers: accuracy per template, then median and interquartile range over templates."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfew.ranking.classes import wilson_interval
from tfew.ranking.norms import available, rescored
from tfew.schema import Prediction


def accuracy(predictions: Sequence[Prediction]) -> float:
    """Fraction of labelled predictions that are right; nan where there is none."""
    right = [prediction.predicted == prediction.label for prediction in predictions if prediction.label is not None]
    return sum(right) / len(right) if right else float("nan")


def median_and_iqr(values: Sequence[float]) -> tuple[float, float]:
    """numpy's median and the distance of the quartiles (linear interpolation), as the official result tables take."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return float(median), float(high - low)


def summarise_members(predictions: Sequence[Prediction], norm: str) -> dict[str, Any]:
    """Of a mixture: `summarise` of each member, and the means over members of their medians and of their chances."""
    by_member = defaultdict(list)
    for prediction in predictions:
        by_member[prediction.dataset].append(prediction)
    members = {name: summarise(group, norm) for name, group in sorted(by_member.items())}
    means = {key: float(np.mean([member[key] for member in members.values()])) for key in ("accuracy", "chance")}
    return {**means, "members": members}


def summarise(predictions: Sequence[Prediction], norm: str) -> dict[str, Any]:
    """accuracy (median over templates), accuracy_iqr, chance, and accuracy and rows of each template.

    accuracy_interval: of a single template, the 95 % interval of its accuracy.

    chance is the accuracy of guessing among each prompt's own choices. `norm` is what the scores were made with;
    accuracy_by_norm has the accuracy under each.
    """
    by_template = defaultdict(list)
    for prediction in predictions:
        by_template[prediction.template].append(prediction)
    templates = {name: {"accuracy": accuracy(group), "rows": len(group)} for name, group in sorted(by_template.items())}
    median, iqr = median_and_iqr([template["accuracy"] for template in templates.values()])
    chance = sum(1 / len(prediction.scores) for prediction in predictions) / len(predictions)
    by_norm = {
        other: median_and_iqr([accuracy([rescored(p, norm, other) for p in group]) for group in by_template.values()])[
            0
        ]
        for other in available(predictions[0])
    }
    labelled = [prediction for prediction in predictions if prediction.label is not None]
    right = sum(prediction.predicted == prediction.label for prediction in labelled)
    interval = {"accuracy_interval": wilson_interval(right, len(labelled))} if len(templates) == 1 and labelled else {}
    return {
        "accuracy": median,
        **interval,
        "accuracy_iqr": iqr,
        "accuracy_by_norm": by_norm,
        "chance": chance,
        "templates": templates,
    }
