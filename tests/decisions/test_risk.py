"""The promise of `risk=`: how often a threshold with a higher error rate is chosen, counted on made rows."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from tests.decisions.rows import counted, draw, made, softmax
from tfew.decisions.binomial import at_most, rows_to_show, upper_bound
from tfew.decisions.risk import levels, lowest_risk, risk_threshold, rows_needed
from tfew.ranking.temperature import fitted_temperature, probabilities


@pytest.mark.parametrize(("errors", "rows", "rate"), [(0, 1, 0.5), (3, 17, 0.05), (9, 10, 0.9), (10, 10, 0.3)])
def test_binomial_sums(errors: int, rows: int, rate: float) -> None:
    """Against fractions."""
    p = Fraction(rate)
    exact = sum(math.comb(rows, k) * p**k * (1 - p) ** (rows - k) for k in range(errors + 1))
    assert at_most(errors, rows, rate) == pytest.approx(float(exact), abs=1e-12)


@pytest.mark.parametrize(("errors", "rows", "confidence"), [(0, 45, 0.9), (3, 96, 0.9), (50, 100, 0.99), (5, 5, 0.9)])
def test_the_bound_is_clopper_and_pearsons(errors: int, rows: int, confidence: float) -> None:
    found = upper_bound(errors, rows, confidence)
    interval = stats.binomtest(errors, rows, alternative="less").proportion_ci(confidence, method="exact")
    assert found == pytest.approx(interval.high, abs=1e-9)
    if errors < rows:
        assert at_most(errors, rows, found) == pytest.approx(1 - confidence, abs=1e-9)


@pytest.mark.parametrize(("rate", "confidence"), [(0.05, 0.9), (0.1, 0.9), (0.5, 0.5), (0.01, 0.99)])
@pytest.mark.parametrize("errors", [0, 1, 2])
def test_rows_to_show(errors: int, rate: float, confidence: float) -> None:
    rows = rows_to_show(errors, rate, confidence)
    enough, fewer = stats.binom.cdf(errors, [rows, rows - 1], rate)
    assert enough <= 1 - confidence + 1e-9
    assert fewer > 1 - confidence + 1e-15 or rows == 1


def test_it_is_the_last_of_a_row_of_tests() -> None:
    """Against the definition, by scipy's binomial test, one threshold after the other."""
    rows = made(400, sharpness=4)
    expected = None
    begin = next(n for n in range(3, 400) if stats.binom.cdf(2, n, 0.1) <= 0.1)
    assert begin == 52, "rows with two errors among them show 10 %"
    for level in levels():
        answered = rows.top_R >= level
        wrong, number = int((~rows.is_right_R[answered]).sum()), int(answered.sum())
        if number >= begin:
            if stats.binomtest(wrong, number, 0.1, alternative="less").pvalue > 0.1:
                break
            expected = level, number, wrong
    found = risk_threshold(rows.top_R, rows.is_right_R, 0.1, 0.9)
    assert expected is not None
    assert found is not None
    assert (found.threshold, found.answered, found.wrong) == expected
    assert wrong / number > found.wrong / found.answered
    assert found.bound <= 0.1 + 1e-9


def test_levels_go_down_to_all_rows() -> None:
    assert levels() == sorted(levels(), reverse=True)
    assert levels()[-1] == 0
    rows = made(300, sharpness=20)  # nearly all right
    found = risk_threshold(rows.top_R, rows.is_right_R, 0.2, 0.9)
    assert found is not None
    assert (found.threshold, found.answered) == (0, 300)


@pytest.mark.parametrize(("rows", "sharpness", "risk"), [(96, 4, 0.1), (400, 4, 0.05), (96, 10, 0.1)])
@pytest.mark.parametrize("fitted", [False, True])
def test_the_promise_is_kept(rows: int, sharpness: float, risk: float, fitted: bool) -> None:
    """The true error rate above the chosen threshold is over `risk` in at most 10 % of 200 draws, and no more than
    chance leaves above that; also where the temperature is fitted to the same rows."""
    test_scores, test_label = draw(np.random.default_rng(99), 20_000, 4, sharpness, 1.7)

    def breaks(rng: np.random.Generator) -> bool:
        scores, label = draw(rng, rows, 4, sharpness, 1.7)
        temperature = fitted_temperature(scores, label) if fitted else 1.0
        known, new = probabilities(scores, temperature), probabilities(test_scores, temperature)
        kept = risk_threshold(known.max(1), known.argmax(1) == label, risk, 0.9)
        if kept is None:
            return False
        answered = new.max(1) >= kept.threshold
        return bool((new.argmax(1) != test_label)[answered].mean() > risk)

    tries = 60 if fitted else 200
    assert counted(tries, breaks) <= 0.1 + 2.4 * math.sqrt(0.1 * 0.9 / tries)


def test_where_none_can_be_kept_the_lowest_is_said() -> None:
    rows = made(96, sharpness=2.5)
    assert risk_threshold(rows.top_R, rows.is_right_R, 0.02, 0.9) is None
    lowest = lowest_risk(rows.top_R, rows.is_right_R, 0.9)
    assert lowest is not None
    assert risk_threshold(rows.top_R, rows.is_right_R, lowest, 0.9) is not None
    assert risk_threshold(rows.top_R, rows.is_right_R, lowest - 0.001, 0.9) is None


def test_rows_needed_are_enough_of_the_same_rows() -> None:
    rows = made(96, sharpness=6)
    assert risk_threshold(rows.top_R, rows.is_right_R, 0.01, 0.9) is None
    needed = rows_needed(rows.top_R, rows.is_right_R, 0.01, 0.9)
    assert needed is not None
    times = math.ceil(needed / 96)
    enough = risk_threshold(np.tile(rows.top_R, times), np.tile(rows.is_right_R, times), 0.01, 0.9)
    assert enough is not None
    fewer = max(times // 3, 1)
    assert risk_threshold(np.tile(rows.top_R, fewer), np.tile(rows.is_right_R, fewer), 0.01, 0.9) is None


def test_no_number_of_rows_helps_where_the_surest_are_wrong() -> None:
    top = softmax(draw(np.random.default_rng(0), 50)[0]).max(1)
    assert rows_needed(top, np.zeros(50, bool), 0.1, 0.9) is None
    assert lowest_risk(top, np.zeros(50, bool), 0.9) is None
