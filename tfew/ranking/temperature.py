"""Calibrated probabilities from scores: temperature scaling (Guo et al. 2017, arXiv 1706.04599).

    p(choice) = mean over the row's templates of softmax(scores / T)

T is fitted on held-out predictions by their cross-entropy. The target is not 1 but (n + 1) / (n + 2) (Platt 1999), so
that T stays above 0 if all n rows are right. Expected calibration error: rows in 15 equal bins by the probability of
the predicted choice, the mean over rows of |accuracy - mean probability| of their bin.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tfew.schema import Prediction

BINS = 15
CALIBRATION_ROWS = 30  # with fewer, a fitted temperature would overfit
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 100.0  # of the search
FOLDS = 5  # of the error after fitting
GOLDEN = (math.sqrt(5) - 1) / 2


def calibration(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """temperature, rows, ece (uncalibrated) and ece_calibrated, on rows that T was not fitted on.

    With too few labelled rows temperature is 1, and ece_calibrated is None; ece is None if there are none at all.
    """
    _, scores_RMC, label_R = aligned(predictions)
    rows = len(label_R)
    found = {"temperature": 1.0, "rows": rows, "ece": None, "ece_calibrated": None}
    if rows:
        found["ece"] = expected_calibration_error(probabilities(scores_RMC, 1.0), label_R)
    if rows >= CALIBRATION_ROWS:
        found["temperature"] = fitted_temperature(scores_RMC, label_R)
        found["ece_calibrated"] = expected_calibration_error(calibrated_probabilities(scores_RMC, label_R), label_R)
    return found


def probabilities(scores_RMC: np.ndarray, temperature: float) -> np.ndarray:
    """`[R, C]` from the scores of R rows under M templates; -inf: no such choice, or if all are, no such template."""
    top_RM = scores_RMC.max(-1)
    present_RM = np.isfinite(top_RM)
    weight_RMC = np.exp((scores_RMC - np.where(present_RM, top_RM, 0)[..., None]) / temperature)
    divisor_RM = np.where(present_RM, weight_RMC.sum(-1), 1) * present_RM.sum(1)[:, None]
    probability_RC: np.ndarray = np.einsum("rmc,rm->rc", weight_RMC, 1 / divisor_RM)
    return probability_RC


def expected_calibration_error(probability_RC: np.ndarray, label_R: np.ndarray) -> float:
    rows_B, confidence_B, right_B = reliability(probability_RC, label_R)
    return float(np.abs(right_B - confidence_B).sum() / rows_B.sum())


def reliability(probability_RC: np.ndarray, label_R: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each bin its rows, the sum of the predicted choices' probabilities, and how many are right."""
    confidence_R = probability_RC.max(-1)
    right_R = probability_RC.argmax(-1) == label_R
    bin_R = np.minimum((confidence_R * BINS).astype(int), BINS - 1)
    return np.bincount(bin_R, minlength=BINS), np.bincount(bin_R, confidence_R, BINS), np.bincount(bin_R, right_R, BINS)


def fitted_temperature(scores_RMC: np.ndarray, label_R: np.ndarray) -> float:
    """The best of a grid, then golden-section search between its neighbours, in log T, to a thousandth.

    The grid is needed since the loss of a mean over templates may have more than one minimum.
    """

    def loss(log_temperature: float) -> float:
        return cross_entropy(probabilities(scores_RMC, math.exp(log_temperature)), label_R)

    grid = np.linspace(math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE), 24).tolist()
    best = min(range(len(grid)), key=lambda place: loss(grid[place]))
    return math.exp(_golden_section(loss, grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]))


def _golden_section(f: Callable[[float], float], low: float, high: float, width: float = 1e-3) -> float:
    """The position of the minimum of a unimodal function."""
    places = [high - GOLDEN * (high - low), low + GOLDEN * (high - low)]
    values = [f(place) for place in places]
    while high - low > width:
        if values[0] <= values[1]:
            high, places[1], values[1] = places[1], places[0], values[0]
            places[0] = high - GOLDEN * (high - low)
            values[0] = f(places[0])
        else:
            low, places[0], values[0] = places[0], places[1], values[1]
            places[1] = low + GOLDEN * (high - low)
            values[1] = f(places[1])
    return (low + high) / 2


def cross_entropy(probability_RC: np.ndarray, label_R: np.ndarray) -> float:
    """Mean over rows, with Platt's target for the right choice; what it leaves is shared among the others."""
    rows = len(label_R)
    right_R = probability_RC[np.arange(rows), label_R]
    target = (rows + 1) / (rows + 2)
    tiny = np.finfo(float).tiny
    others_R = np.maximum(1 - right_R, tiny)
    return float(-(target * np.log(np.maximum(right_R, tiny)) + (1 - target) * np.log(others_R)).mean())


def calibrated_probabilities(scores_RMC: np.ndarray, label_R: np.ndarray) -> np.ndarray:
    """`[R, C]`: each fifth of the rows with the temperature fitted on the other four."""
    fold_R = np.arange(len(label_R)) % FOLDS
    probability_RC = np.empty((len(label_R), scores_RMC.shape[-1]))
    for fold in range(FOLDS):
        rest = fold_R != fold
        temperature = fitted_temperature(scores_RMC[rest], label_R[rest])
        probability_RC[~rest] = probabilities(scores_RMC[~rest], temperature)
    return probability_RC


def aligned(predictions: Sequence[Prediction]) -> tuple[list[int], np.ndarray, np.ndarray]:
    """`idx` and scores `[R, M, C]` of labelled rows, -inf if one has no such template or choice, and labels `[R]`.

    A template that reverses the question has another right choice than the rest, so it cannot be averaged with them.
    If a row has several questions, each is a row of its own here.
    """
    by_row: dict[tuple[int, str | None], list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        if prediction.label is not None:
            by_row[prediction.idx, prediction.question].append(prediction)
    labels = {idx: Counter(p.label for p in group).most_common(1)[0][0] for idx, group in by_row.items()}
    turned = {p.template for idx, group in by_row.items() for p in group if p.label != labels[idx]}
    kept = {idx: [p for p in group if p.template not in turned] for idx, group in by_row.items()}
    rows = {idx: {p.template: p.scores for p in group} for idx, group in kept.items() if group}
    label_R = np.array([_last_same(labels[idx], kept[idx][0].same) for idx in rows], np.int64)
    return [idx for idx, _ in rows], stacked(rows), label_R


def top_and_right(
    predictions: Sequence[Prediction], temperature: float, unknown: Collection[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """`[R]` and `[R]`, of the rows with a label: the probability of the predicted choice, and whether it is right.

    `unknown`: the `idx` of rows whose label is not among the choices, so that no prediction is right.
    """
    any_label = [replace(p, label=0) if p.label is None and p.idx in unknown else p for p in predictions]
    idx, scores_RMC, label_R = aligned(any_label)
    if not idx:
        return np.empty(0), np.empty(0, bool)
    probability_RC = probabilities(scores_RMC, temperature)
    known_R = ~np.isin(np.array(idx, np.int64), list(unknown))
    return probability_RC.max(-1), (probability_RC.argmax(-1) == label_R) & known_R


def _last_same(label: int | None, same: Sequence[int] | None) -> int | None:
    """The last choice that is the same as the label: the first of them is predicted, so ties are never lucky."""
    if label is None or same is None:
        return label
    return max(place for place, first in enumerate(same) if first == same[label])


def stacked(rows: Mapping[Any, Mapping[str, Sequence[float]]]) -> np.ndarray:
    """`[R, M, C]` from the scores of each row by template."""
    templates = {name: place for place, name in enumerate(dict.fromkeys(name for row in rows.values() for name in row))}
    choices = max((len(scores) for row in rows.values() for scores in row.values()), default=0)
    scores_RMC = np.full((len(rows), len(templates), choices), -np.inf)
    for scores_MC, row in zip(scores_RMC, rows.values(), strict=True):
        for name, scores in row.items():
            scores_MC[templates[name], : len(scores)] = scores
    return scores_RMC
