"""Metrics of rows with several labels, from predictions of their questions.

A row is given the labels whose probability reaches their thresholds. The metrics of training use thresholds chosen on
the other folds' rows; the saved thresholds are chosen on all rows (`tfew.label_sets.thresholds`). Later evaluations of
the adapter use the saved ones, as prediction does.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tfew.label_sets.questions import YES
from tfew.label_sets.scores import by_label, f1_macro, micro, right_sets
from tfew.label_sets.thresholds import DEFAULT, best_thresholds, cross_fitted, folds_of, is_enough
from tfew.ranking.baselines import BAG_OF_WORDS
from tfew.ranking.bootstrap_gain import bootstrap_gain, f1_interval
from tfew.ranking.per_label_metrics import wilson_interval
from tfew.ranking.temperature import (
    CALIBRATION_ROWS,
    aligned,
    calibration,
    expected_calibration_error,
    probabilities,
    stacked,
)
from tfew.schema import Prediction
from tfew.task import Task

LEADING = "f1_micro"


@dataclass(frozen=True)
class SavedDecision:
    """An adapter's temperature, and the threshold of each label, by name: both chosen on held-out rows of its run."""

    temperature: float
    thresholds: Mapping[str, float]

    def threshold_K(self, names: Sequence[str]) -> np.ndarray:
        return np.array([self.thresholds.get(name, DEFAULT) for name in names])


def decided(task: Task, predictions: Sequence[Prediction], saved: SavedDecision) -> list[Prediction]:
    """The same predictions with yes as predicted where the row is given the label, by all its templates together."""
    names = list(task.classes or ())
    by_row = _by_row(predictions)
    given_RK = _yes(by_row, names, saved.temperature) >= saved.threshold_K(names)
    given = {
        idx: {name for name, has in zip(names, given_K, strict=True) if has}
        for idx, given_K in zip(by_row, given_RK, strict=True)
    }
    return [replace(p, predicted=YES if p.question in given[p.idx] else 1 - YES) for p in predictions]


def summarise_label_sets(
    task: Task,
    predictions: Sequence[Prediction],
    guesses: Mapping[str, Sequence[Any]] | None = None,
    saved: SavedDecision | None = None,
) -> dict[str, Any]:
    """f1_micro, f1_macro, accuracy (of whole sets), classes (numbers and threshold of each label), and calibration.

    Of the rows with known labels; empty if there are none. `predictions`: of every question of every prompt;
    `guesses`: the baselines' predictions for all rows of the task, a probability or a decision per label. `saved`: the
    adapter's own decision, which is then what is evaluated; label_sets has as cross_fitted the metrics without it.
    """
    names = list(task.classes or ())
    places = {example.idx: place for place, example in enumerate(task.examples) if example.labels is not None}
    by_row = _by_row([prediction for prediction in predictions if prediction.idx in places])
    if not by_row:
        return {}
    examples = [task.examples[places[idx]] for idx in by_row]
    other_names = sorted({name for example in examples for name in example.other_labels})
    known_RK = np.array([[place in (e.labels or ()) for place in range(len(names))] for e in examples])
    others_RK = np.array([[name in e.other_labels for name in other_names] for e in examples], bool)
    has_RK = np.concatenate([known_RK, others_RK.reshape(len(examples), -1)], axis=1)
    found = _calibration(predictions, len(examples), saved)
    probability_RK = _yes(by_row, names, found["temperature"])
    fold_R = folds_of([group[0].fold for group in by_row.values()])
    chosen_RK = probability_RK >= cross_fitted(probability_RK, known_RK, fold_R)
    best_K = best_thresholds(probability_RK, known_RK)
    threshold_K = best_K if saved is None else saved.threshold_K(names)
    given_RK = chosen_RK if saved is None else probability_RK >= threshold_K
    found["thresholds"] = dict(zip(names, threshold_K.tolist(), strict=True))

    def all_labels(given_RK: np.ndarray) -> np.ndarray:
        """With columns for the labels that the task does not have, which no row is given."""
        return np.concatenate([given_RK, np.zeros_like(others_RK.reshape(len(examples), -1))], axis=1)

    numbers = _numbers(has_RK, all_labels(given_RK))
    by_name = dict(zip([*names, *other_names], by_label(has_RK, all_labels(given_RK)), strict=True))
    for name, threshold in found["thresholds"].items():
        by_name[name]["threshold"] = threshold
    templates = Counter(prediction.template for prediction in predictions)
    per_template = {name: {"accuracy": numbers["accuracy"], "rows": len(by_row)} for name in sorted(templates)}
    right = int(right_sets(has_RK, all_labels(given_RK)).sum())
    summary: dict[str, Any] = {
        **numbers,
        "accuracy_interval": wilson_interval(right, len(by_row)),
        "accuracy_iqr": 0.0,
        "f1_micro_interval": f1_interval(has_RK, all_labels(given_RK)),
        "leading_metric": LEADING,
        "chance": 0.5 ** len(names),
        "templates": per_template,
        "classes": by_name,
        "calibration": found,
        "label_sets": {
            "labels": len(names),
            "labels_a_row": float(has_RK.sum() / len(by_row)),
            "rows_without_label": int((~has_RK.any(1)).sum()),
            "same_rows": _numbers(has_RK, all_labels(probability_RK >= best_K)),
            "at_default": _numbers(has_RK, all_labels(probability_RK >= DEFAULT)),
            "shared_threshold": [name for name, own in zip(names, known_RK.T, strict=True) if not is_enough(own)],
        },
    }
    if saved is not None:
        summary["label_sets"] |= {"cross_fitted": _numbers(has_RK, all_labels(chosen_RK)), "shared_threshold": []}
    if other_names:
        counts = Counter(name for example in examples for name in example.other_labels)
        summary["unknown_labels"] = dict(counts)
    if guesses:
        summary["baselines"] = {
            name: _baseline(name, np.array([guess[places[idx]] for idx in by_row]), has_RK, known_RK, fold_R, given_RK)
            for name, guess in guesses.items()
        }
    return summary


def _numbers(has_RK: np.ndarray, given_RK: np.ndarray) -> dict[str, float]:
    of_all = micro(has_RK, given_RK)
    return {
        "accuracy": float(right_sets(has_RK, given_RK).mean()),
        "f1_micro": of_all["f1"],
        "f1_macro": f1_macro(has_RK, given_RK),
        "precision_micro": of_all["precision"],
        "recall_micro": of_all["recall"],
    }


def _by_row(predictions: Sequence[Prediction]) -> dict[int, list[Prediction]]:
    by_row: dict[int, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        by_row[prediction.idx].append(prediction)
    return by_row


def _calibration(predictions: Sequence[Prediction], rows: int, saved: SavedDecision | None) -> dict[str, Any]:
    """`tfew.ranking.temperature.calibration` of the questions; a few rows have many of them.

    With `saved`, at its temperature, which other rows were used for.
    """
    found = {**calibration(predictions), "rows": rows}
    if saved is not None:
        _, scores_RMC, label_R = aligned(predictions)
        error = expected_calibration_error(probabilities(scores_RMC, saved.temperature), label_R)
        return {**found, "temperature": saved.temperature, "ece_calibrated": error}
    return found if rows >= CALIBRATION_ROWS else {**found, "temperature": 1.0, "ece_calibrated": None}


def _yes(by_row: Mapping[int, Sequence[Prediction]], names: Sequence[str], temperature: float) -> np.ndarray:
    """`[R, K]`, the probability of each label: the mean over the row's templates."""
    scores: dict[tuple[int, str], dict[str, Sequence[float]]] = {(idx, name): {} for idx in by_row for name in names}
    for idx, group in by_row.items():
        for prediction in group:
            scores[idx, str(prediction.question)][prediction.template] = prediction.scores
    yes = probabilities(stacked(scores), temperature)[:, YES]
    return yes.reshape(len(by_row), len(names))


def _baseline(
    name: str, guess_RK: np.ndarray, has_RK: np.ndarray, known_RK: np.ndarray, fold_R: np.ndarray, given_RK: np.ndarray
) -> dict[str, Any]:  # fmt: skip
    """A baseline's metrics; thresholds for its probabilities are chosen as the model's are in training."""
    threshold: Any = cross_fitted(guess_RK, known_RK, fold_R) if name == BAG_OF_WORDS else DEFAULT
    unknown = ((0, 0), (0, has_RK.shape[1] - known_RK.shape[1]))
    guessed_RK, model_RK = np.pad(guess_RK >= threshold, unknown), np.pad(given_RK, unknown)
    gain = bootstrap_gain(has_RK, model_RK, guessed_RK)
    return {**_numbers(has_RK, guessed_RK), "gain": {"metric": LEADING, **asdict(gain)}}
