"""Temperature and calibration error against closed forms, known truths and a slow reference."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tfew.errors import UserError
from tfew.models.adapters_io import load_temperature, save_temperature
from tfew.ranking.temperature import (
    CALIBRATION_ROWS,
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    calibration,
    cross_entropy,
    expected_calibration_error,
    fitted_temperature,
    probabilities,
)
from tfew.schema import Prediction

NONE = -np.inf


def drawn(rows: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of 4 choices, and labels that follow softmax(scores / temperature)."""
    source = np.random.default_rng(seed)
    scores = source.normal(size=(rows, 1, 4)) * 3
    weights = np.exp(scores[:, 0] / temperature)
    label = [source.choice(4, p=row / row.sum()) for row in weights]
    return scores, np.array(label)


def test_probabilities_by_hand() -> None:
    scores = np.array([[[math.log(3), math.log(1)], [0.0, 0.0]]])
    np.testing.assert_allclose(probabilities(scores, 1.0), [[(0.75 + 0.5) / 2, (0.25 + 0.5) / 2]])
    # at temperature 1/2 weights are squared: 9 to 1
    np.testing.assert_allclose(probabilities(scores, 0.5), [[(0.9 + 0.5) / 2, (0.1 + 0.5) / 2]])


def test_absent_choices_and_templates_take_no_part() -> None:
    scores = np.array([[[1.0, 1.0, NONE], [NONE, NONE, NONE]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    np.testing.assert_allclose(probabilities(scores, 0.3), [[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    assert np.isfinite(probabilities(np.array([[[-1e4, -2e4]]]), 0.01)).all()


@pytest.mark.parametrize("truth", [0.3, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_with_is_found(truth: float) -> None:
    scores, label = drawn(4000, truth)
    assert fitted_temperature(scores, label) == pytest.approx(truth, rel=0.06)


def test_no_other_temperature_is_better() -> None:
    """Against a fine search, also where templates are averaged."""
    source = np.random.default_rng(1)
    scores = source.normal(size=(300, 3, 5)) * 4
    label = np.where(source.random(300) < 0.7, scores.mean(1).argmax(-1), source.integers(5, size=300))
    losses = {t: cross_entropy(probabilities(scores, t), label) for t in np.geomspace(0.02, 50, 2000)}
    best = min(losses, key=losses.__getitem__)
    found = fitted_temperature(scores, label)
    assert found == pytest.approx(best, rel=0.01)
    assert cross_entropy(probabilities(scores, found), label) <= losses[best] + 1e-6


def test_all_right_does_not_mean_certain() -> None:
    """Platt's target: (n + 1) / (n + 2) is the probability of the right one, where all rows are alike and right."""
    scores = np.tile([[[0.0, -1.0]]], (50, 1, 1))
    label = np.zeros(50, np.int64)
    right = probabilities(scores, fitted_temperature(scores, label))[0, 0]
    assert right == pytest.approx(51 / 52, abs=1e-3)


def test_calibration_error_by_hand() -> None:
    # two rows in the bin of 0.9, one right; two in that of 0.6, both right
    probability = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.6, 0.4]])
    label = np.array([0, 0, 0, 0])
    assert expected_calibration_error(probability, label) == pytest.approx((2 * 0.4 + 2 * 0.4) / 4)
    assert expected_calibration_error(np.eye(3), np.array([0, 1, 2])) == 0
    assert expected_calibration_error(np.eye(3), np.array([1, 2, 0])) == 1


def test_calibration_error_against_a_slow_reference() -> None:
    source = np.random.default_rng(2)
    probability = source.dirichlet(np.ones(3), size=500)
    label = source.integers(3, size=500)
    total = 0.0
    for low in range(15):
        rows = [r for r in range(500) if low / 15 <= max(probability[r]) < (low + 1) / 15]
        if rows:
            accuracy = sum(int(np.argmax(probability[r])) == label[r] for r in rows) / len(rows)
            total += len(rows) / 500 * abs(accuracy - sum(max(probability[r]) for r in rows) / len(rows))
    assert expected_calibration_error(probability, label) == pytest.approx(total)


def predictions(scores: np.ndarray, label: np.ndarray, names: tuple[str, ...] = ("one",)) -> list[Prediction]:
    return [
        Prediction("d", name, idx, int(label[idx]), int(np.argmax(row)), tuple(row.tolist()), tokens=(1,) * len(row))
        for idx in range(len(scores))
        for name, row in zip(names, scores[idx], strict=True)
    ]


def test_calibrated_error_is_lower_where_it_should_be() -> None:
    scores, label = drawn(2000, 3.0)
    found = calibration(predictions(scores, label))
    assert found["rows"] == 2000
    assert found["temperature"] == pytest.approx(3.0, rel=0.1)
    assert found["ece"] > 0.2
    assert found["ece_calibrated"] < 0.04


def test_a_template_that_turns_the_question_round_is_left_out() -> None:
    scores, label = drawn(200, 1.0)
    three = np.concatenate([scores, scores, -scores], axis=1)
    straight = predictions(three[:, :2], label, ("one", "two"))
    turned = predictions(three[:, 2:], (label + 1) % 4, ("turned",))
    assert calibration([*straight, *turned]) == calibration(straight)
    assert calibration(straight)["temperature"] == pytest.approx(1.0, rel=0.3)


def test_few_rows_and_none() -> None:
    scores, label = drawn(29, 3.0)
    few = calibration(predictions(scores, label))
    assert (few["temperature"], few["rows"], few["ece_calibrated"]) == (1.0, 29, None)
    assert few["ece"] > 0
    assert calibration([]) == {"temperature": 1.0, "rows": 0, "ece": None, "ece_calibrated": None}
    unlabelled = [Prediction("d", "one", 0, None, 0, (0.0, 1.0), tokens=(1, 1))]
    assert calibration(unlabelled)["rows"] == 0


def test_fewest_rows() -> None:
    scores, label = drawn(CALIBRATION_ROWS, 3.0)
    assert calibration(predictions(scores, label))["ece_calibrated"] is not None
    few = calibration(predictions(scores[:-1], label[:-1]))
    assert (few["temperature"], few["ece_calibrated"]) == (1.0, None)


@pytest.mark.parametrize(
    ("temperature", "fitted", "rel"),
    [
        (LOWEST_TEMPERATURE * 2, LOWEST_TEMPERATURE * 2, 0.02),
        (LOWEST_TEMPERATURE / 2, LOWEST_TEMPERATURE, 0.01),
        (HIGHEST_TEMPERATURE / 2, HIGHEST_TEMPERATURE / 2, 0.02),
        (HIGHEST_TEMPERATURE * 2, HIGHEST_TEMPERATURE, 0.01),
    ],
)
def test_lowest_and_highest_temperature(temperature: float, fitted: float, rel: float) -> None:
    """A thousand rows whose two choices score 0 and s, a share of them right: T is s / log odds of that share."""
    scores = np.tile([[[0.0, temperature * math.log(0.9 / 0.1)]]], (1000, 1, 1))
    label = np.array([1] * 900 + [0] * 100)
    assert fitted_temperature(scores, label) == pytest.approx(fitted, rel=rel)


def test_what_lies_beside_an_adapter(tmp_path: Path) -> None:
    assert load_temperature(tmp_path, "token") is None
    scores, label = drawn(100, 2.0)
    save_temperature(tmp_path, calibration(predictions(scores, label)), "token")
    assert load_temperature(tmp_path, "token") == pytest.approx(2.0, rel=0.4)
    assert load_temperature(tmp_path, "sum") is None, "scores under another norm have another temperature"
    save_temperature(tmp_path, calibration(predictions(scores[:5], label[:5])), "token")
    assert load_temperature(tmp_path, "token") is None, "of too few rows"
    for bad in ("{", "[]", json.dumps({"norm": "token", "temperature": 0, "ece_calibrated": 0.1})):
        (tmp_path / "temperature.json").write_text(bad)
        with pytest.raises(UserError, match=r"temperature.json does not hold an adapter's temperature"):
            load_temperature(tmp_path, "token")
