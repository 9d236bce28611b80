"""Numbers of sets of labels against scikit-learn."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from tfew.label_sets.scores import by_label, f1_macro, micro, right_sets, set_probability


def made(seed: int, rows: int = 30, labels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    has = random.random((rows, labels)) < np.linspace(0.05, 0.6, labels)
    return has, has ^ (random.random((rows, labels)) < 0.25)


@pytest.mark.parametrize("seed", range(5))
def test_as_scikit_learn_has_them(seed: int) -> None:
    has_RK, given_RK = made(seed)
    precision, recall, f1, support = precision_recall_fscore_support(has_RK, given_RK, average=None, zero_division=0)
    found = by_label(has_RK, given_RK)
    assert [label["precision"] for label in found] == pytest.approx(precision.tolist())
    assert [label["recall"] for label in found] == pytest.approx(recall.tolist())
    assert [label["f1"] for label in found] == pytest.approx(f1.tolist())
    assert [label["rows"] for label in found] == support.tolist()
    assert f1_macro(has_RK, given_RK) == pytest.approx(f1_score(has_RK, given_RK, average="macro", zero_division=0))
    assert micro(has_RK, given_RK)["f1"] == pytest.approx(f1_score(has_RK, given_RK, average="micro"))
    assert right_sets(has_RK, given_RK).mean() == pytest.approx(accuracy_score(has_RK, given_RK))


def test_labels_that_nobody_has_or_gave_do_not_count() -> None:
    has_RK, given_RK = made(0)
    more = np.zeros((len(has_RK), 1), bool)
    with_more = np.hstack([has_RK, more]), np.hstack([given_RK, more])
    assert f1_macro(*with_more) == pytest.approx(f1_macro(has_RK, given_RK))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert by_label(*with_more)[-1] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "rows": 0, "predicted": 0}
        assert micro(more, more)["f1"] == f1_macro(more, more) == 0.0


def test_the_probability_of_a_set_is_one_of_all_sets() -> None:
    probability_K = np.array([0.9, 0.2, 0.5])
    sets = [np.array([bool(number >> place & 1) for place in range(3)]) for number in range(8)]
    assert sum(set_probability(probability_K, given) for given in sets) == pytest.approx(1)
    assert set_probability(probability_K, np.array([True, False, True])) == pytest.approx(0.9 * 0.8 * 0.5)
