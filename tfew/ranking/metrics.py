"""From predictions to numbers: accuracy per template, then median and interquartile range over templates."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from tfew.decisions.curve import summarise_curve
from tfew.ranking.icl import Answer
from tfew.ranking.per_label_metrics import wilson_interval
from tfew.ranking.temperature import calibration, top_and_right
from tfew.schema import Prediction


def accuracy(predictions: Sequence[Prediction], unknown: Collection[int] = ()) -> float:
    """Fraction of labelled predictions that are right; nan if there are none.

    `unknown`: the `idx` of rows whose label is not among the choices, so that every prediction is wrong.
    """
    labelled = [prediction for prediction in predictions if prediction.label is not None or prediction.idx in unknown]
    right = [prediction.predicted == prediction.label for prediction in labelled]
    return sum(right) / len(right) if right else float("nan")


def accuracy_of_sets(predictions: Sequence[Prediction]) -> float:
    """Fraction of rows with all questions answered right; nan if there are none."""
    right: dict[tuple[int, str], bool] = {}
    for prediction in predictions:
        row = prediction.idx, prediction.template
        right[row] = right.get(row, True) and prediction.predicted == prediction.label
    return sum(right.values()) / len(right) if right else float("nan")


def median_and_iqr(values: Sequence[float]) -> tuple[float, float]:
    """The median and interquartile range (numpy, linear interpolation), as in the official result tables."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return float(median), float(high - low)


def summarise_members(answers: Sequence[Answer], norm: str) -> dict[str, Any]:
    """For a mixture: `summarise` of each member, and the means over members of median accuracy and of chance."""
    by_member = defaultdict(list)
    for answer in answers:
        by_member[answer.dataset].append(answer)
    members = {name: summarise(group, norm) for name, group in sorted(by_member.items())}
    means = {key: float(np.mean([member[key] for member in members.values()])) for key in ("accuracy", "chance")}
    return {**means, "members": members}


def summarise(answers: Sequence[Answer], norm: str, unknown: Collection[int] = ()) -> dict[str, Any]:
    """accuracy under `norm` (median over templates), accuracy_iqr, chance, and accuracy and rows of each template.

    accuracy_interval: of a single template, the 95 % interval of its accuracy. chance is the accuracy of guessing among
    each prompt's own choices; rows in `unknown` (their `idx`) have another label, and are errors. accuracy_by_norm has
    the accuracy under each norm; calibration is from `tfew.ranking.temperature`, of rows with a label
    among the choices; answering, of all with a label, from `tfew.decisions.curve`.
    """
    by_template = defaultdict(list)
    for answer in answers:
        by_template[answer.template].append(answer)
    by_norm = {
        other: {
            name: accuracy([answer.under(other) for answer in group], unknown) for name, group in by_template.items()
        }
        for other in answers[0].norms
        if all(other in answer.norms for answer in answers)  # folds of a few rows may or may not have pmi
    }
    templates = {
        name: {"accuracy": by_norm[norm][name], "rows": len(group)} for name, group in sorted(by_template.items())
    }
    median, iqr = median_and_iqr([template["accuracy"] for template in templates.values()])
    chance = sum(1 / answer.choices for answer in answers) / len(answers)
    labelled = [answer.under(norm) for answer in answers if answer.label is not None or answer.idx in unknown]
    right = sum(prediction.predicted == prediction.label for prediction in labelled)
    predictions = [answer.under(norm) for answer in answers]
    found = calibration(predictions)
    interval = {"accuracy_interval": wilson_interval(right, len(labelled))} if len(templates) == 1 and labelled else {}
    return {
        "accuracy": median,
        **interval,
        "accuracy_iqr": iqr,
        "accuracy_by_norm": {
            other: median_and_iqr(list(accuracies.values()))[0] for other, accuracies in by_norm.items()
        },
        "chance": chance,
        "templates": templates,
        "calibration": found,
        **({"answering": _answering(predictions, found["temperature"], unknown)} if found["rows"] else {}),
    }


def _answering(predictions: Sequence[Prediction], temperature: float, unknown: Collection[int]) -> dict[str, Any]:
    return summarise_curve(*top_and_right(predictions, temperature, unknown))
