"""The selection of a setting, and its effect on the best one's accuracy, against brute force and known truths."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from tfew.ranking.tuning import (
    Setting,
    best_place,
    choices_without_own_fold,
    settings_to_try,
    summarise_tuning,
    tuning_table,
    tuning_verdict,
)
from tfew.schema import Prediction

FOLDS = 5


def test_at_most_six_settings_the_given_one_first() -> None:
    tried = settings_to_try(100, 3e-3)
    assert tried[0] == Setting(100, 3e-3)
    assert {(s.steps, s.lr) for s in tried} == {
        (100, 3e-3), (100, 9e-3), (100, 1e-3), (200, 3e-3), (200, 1e-3), (50, 3e-3)
    }  # fmt: skip
    assert settings_to_try(100, 3e-3, tune=False) == tried[:1]
    assert [s.steps for s in settings_to_try(1, 0.1)] == [1, 1, 1, 2, 2], "half a step is the whole one again"
    assert [s.steps for s in settings_to_try(2, 0.1)] == [2, 2, 2, 4, 4], "a single step trains nothing"


def test_of_equal_values_the_lower_loss_and_then_the_first() -> None:
    assert best_place([0.5, 0.7, 0.7], [0, 2, 1]) == 2
    assert best_place([0.7, 0.5, 0.7], [1, 0, 1]) == 0


def drawn(truth: Sequence[float], rows: int, source: np.random.Generator) -> np.ndarray:
    """right[setting, row]: right with this probability, on rows that are as hard for one setting as for another."""
    hard = source.normal(size=rows)
    own = source.normal(size=(len(truth), rows))
    # of a standard normal number below the quantile of its truth; half of its variance is the row's
    quantile = [math.sqrt(2) * _inverse_error(2 * share - 1) for share in truth]
    return (hard + own) / math.sqrt(2) < np.array(quantile)[:, None]


def _inverse_error(value: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf((value + 1) / 2) / math.sqrt(2)


def simulated(truth: Sequence[float], rows: int = 60, times: int = 600) -> tuple[float, float, float]:
    """Means: the best one's own number, the truth of what was chosen, and the number of the choice tried on others."""
    source = np.random.default_rng(0)
    found = []
    for _ in range(times):
        right = drawn(truth, rows, source)
        fold = source.permutation(np.arange(rows) % FOLDS).tolist()

        def score(place: int, some: Sequence[int], right: np.ndarray = right) -> tuple[float, float]:
            return float(right[place, some].mean()), 0.0

        values = right.mean(1).tolist()
        best = best_place(values, [0.0] * len(truth))
        own = choices_without_own_fold(score, len(truth), fold)
        found.append((values[best], truth[best], np.mean([right[place, row] for row, place in enumerate(own)])))
    best_mean, truth_mean, nested_mean = np.mean(found, 0)
    return float(best_mean), float(truth_mean), float(nested_mean)


def test_settings_that_are_equally_good() -> None:
    """Whatever is chosen is as good as any; the best one's own number is too high by some points, the other's not."""
    best, truth, nested = simulated([0.7] * 6)
    assert truth == pytest.approx(0.7)
    assert best - truth > 0.04
    assert nested == pytest.approx(0.7, abs=0.01)  # three standard errors: 0.06 / sqrt(600) each


def test_settings_of_which_one_is_better() -> None:
    best, truth, nested = simulated([0.60, 0.64, 0.68, 0.72, 0.70, 0.66])
    assert best - truth > 0.02
    assert truth - 0.02 < nested < truth + 0.005, "a little careful, for it chooses on fewer rows"
    best, truth, nested = simulated([0.5, 0.5, 0.9])  # whoever chooses, chooses the same
    assert best == pytest.approx(nested, abs=0.001)
    assert nested == pytest.approx(0.9, abs=0.01)


def prediction(row: int, label: int, scores: Sequence[float]) -> Prediction:
    predicted = max(range(len(scores)), key=scores.__getitem__)
    return Prediction("d", "t", row, label, predicted, tuple(scores), (1,) * len(scores))


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_a_summary_by_brute_force(metric: str) -> None:
    source = np.random.default_rng(1)
    labels = source.choice(2, size=40, p=[0.8, 0.2]).tolist()
    predictions = [
        [prediction(row, label, source.normal(size=2) + 0.8 * np.eye(2)[label]) for row, label in enumerate(labels)]
        for _ in range(4)
    ]
    fold_of_row = {row: row % 4 for row in range(40)}

    def value(some: Sequence[Prediction]) -> float:
        rights = [[p.predicted == p.label for p in some if p.label == label] for label in (0, 1)]
        if metric == "accuracy":
            return float(np.mean(rights[0] + rights[1]))
        return float(np.mean([np.mean(right) for right in rights if right]))

    tuning = summarise_tuning(
        [Setting(step, 0.1) for step in range(4)],
        predictions,
        fold_of_row,
        lambda some: {"leading_metric": metric, metric: value(some), f"{metric}_interval": (0.1, 0.9)},
    )
    values = [value(of_setting) for of_setting in predictions]
    assert [tried["value"] for tried in tuning["settings"]] == pytest.approx(values)
    assert tuning["value"] == max(values)
    assert values[tuning["chosen"]] == max(values)
    nested: list[Prediction] = []
    for fold in range(4):
        others = [value([p for p in of_setting if p.idx % 4 != fold]) for of_setting in predictions]
        nested += [p for p in predictions[others.index(max(others))] if p.idx % 4 == fold]
    assert tuning["nested_value"] == pytest.approx(value(nested))
    assert tuning["optimism"] == pytest.approx(max(values) - value(nested))
    for tried, of_setting in zip(tuning["settings"], predictions, strict=True):
        logs = [np.logaddexp.reduce(p.scores) - p.scores[p.label or 0] for p in of_setting]
        assert tried["loss"] == pytest.approx(np.mean(logs))
    lines = tuning_table(tuning)
    assert [line[0] for line in lines[1:]].index("*") == tuning["chosen"]
    assert f"{100 * tuning['optimism']:.1f} points less" in tuning_verdict(tuning)
    assert "no less here" in tuning_verdict({**tuning, "optimism": -0.01})
