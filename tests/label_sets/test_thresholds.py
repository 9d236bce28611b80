"""Thresholds against exhaustive search, and that no row's threshold is chosen on that row."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from tfew.label_sets.thresholds import DEFAULT, FEWEST, best_threshold, best_thresholds, cross_fitted, folds_of


def made(seed: int, rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return np.round(random.random(rows), 2), random.random(rows) < 0.4


@pytest.mark.parametrize("seed", range(8))
def test_the_best_of_all(seed: int) -> None:
    probability_R, has_R = made(seed)
    tried = np.arange(0, 1, 0.0025)  # between and at all probabilities
    best = max(f1_score(has_R, probability_R >= threshold) for threshold in tried)
    assert f1_score(has_R, probability_R >= best_threshold(probability_R, has_R)) == pytest.approx(best)


def test_of_equal_ones_the_nearest_to_one_half_then_the_higher() -> None:
    has_R = np.array([False] * 6 + [True] * 6)
    apart_R = np.array([0.1] * 6 + [0.9] * 6)
    assert best_threshold(apart_R, has_R) == DEFAULT
    assert best_threshold(apart_R / 2, has_R) == pytest.approx(0.25)  # halfway: nothing else separates them
    order = np.random.default_rng(0).permutation(12)
    assert best_threshold(apart_R[order] / 2, has_R[order]) == pytest.approx(0.25)


@pytest.mark.parametrize("having", [0, FEWEST - 1, 20 - FEWEST + 1, 20])
def test_too_few_rows_choose_nothing(having: int) -> None:
    probability_R = np.linspace(0.01, 0.2, 20)
    assert best_threshold(probability_R, np.arange(20) >= 20 - having) == DEFAULT
    assert best_threshold(probability_R, np.arange(20) >= 20 - FEWEST) < DEFAULT


def test_labels_with_too_few_rows_share_one() -> None:
    probability_RK = np.stack([made(1)[0], np.linspace(0, 0.3, 40), np.linspace(0, 0.2, 40)], axis=1)
    has_RK = np.stack([made(1)[1], np.arange(40) > 37, np.arange(40) > 36], axis=1)
    found_K = best_thresholds(probability_RK, has_RK)
    assert found_K[0] == best_threshold(probability_RK[:, 0], has_RK[:, 0])
    assert found_K[1] == found_K[2] == best_threshold(probability_RK.flatten(), has_RK.flatten()) != DEFAULT
    few = np.zeros((40, 2), bool)
    few[:2] = True
    assert best_thresholds(probability_RK[:, :2], few).tolist() == [DEFAULT] * 2


def test_no_row_has_a_part_in_its_own_threshold() -> None:
    probability_RK = np.stack([made(1)[0], made(2)[0]], axis=1)
    has_RK = np.stack([made(1)[1], made(2)[1]], axis=1)
    fold_R = folds_of([None] * 40)
    before = cross_fitted(probability_RK, has_RK, fold_R)
    for fold in range(5):
        own = fold_R == fold
        assert (before[own] == best_thresholds(probability_RK[~own], has_RK[~own])).all()
        changed = has_RK.copy()
        changed[own] = ~changed[own]
        assert (cross_fitted(probability_RK, changed, fold_R)[own] == before[own]).all()


def test_one_fold_has_no_others() -> None:
    assert (cross_fitted(np.array([[0.1], [0.9]]), np.array([[True], [True]]), np.array([3, 3])) == DEFAULT).all()
    assert folds_of([2, None, 0]).tolist() == [2, 1, 0]
