"""Accuracy by coverage against a slow loop over thresholds."""

import numpy as np
import pytest

from tests.decisions.rows import made
from tfew.decisions.curve import SHARES, coverage_threshold, curve_of, in_words, points_of, summarise_curve


@pytest.fixture(params=[0, 1, 2])
def rows(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Some with equal probabilities."""
    found = made(60, seed=request.param)
    return (found.top_R if request.param else found.top_R.round(1)), found.is_right_R


def test_points(rows: tuple[np.ndarray, np.ndarray]) -> None:
    top, right = rows
    curve = curve_of(top, right)
    slow = []
    for threshold in sorted(set(top.tolist()), reverse=True):
        answered = [bool(r) for t, r in zip(top, right, strict=True) if t >= threshold]
        slow.append((len(answered) / 60, sum(answered) / len(answered)))
    np.testing.assert_allclose(points_of(curve), slow, rtol=1e-12)


def test_the_area_is_the_mean_error_rate_as_rows_come_in() -> None:
    found = made(60)
    order = sorted(range(60), key=lambda row: -found.top_R[row])
    rates = [1 - np.mean([found.is_right_R[row] for row in order[: place + 1]]) for place in range(60)]
    assert curve_of(found.top_R, found.is_right_R).area == pytest.approx(np.mean(rates))


def test_where_probabilities_say_nothing_the_area_is_the_error_rate() -> None:
    right = np.array([True, False, True, True])
    assert curve_of(np.full(4, 0.7), right).area == pytest.approx(0.25)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.99])
def test_coverage(rows: tuple[np.ndarray, np.ndarray], share: float) -> None:
    top, _ = rows
    threshold = coverage_threshold(top, share)
    assert np.mean(top >= threshold) >= share
    higher = [value for value in top if value > threshold + 1e-6]
    assert len(higher) / 60 < share, "the highest that does"


def test_summary_holds_the_counts(rows: tuple[np.ndarray, np.ndarray]) -> None:
    top, right = rows
    summary = summarise_curve(top, right)
    assert summary["rows"] == 60
    for point in summary["points"]:
        answered = top >= point["threshold"]
        assert (point["answered"], point["right"]) == (answered.sum(), right[answered].sum())
    for share in SHARES:
        assert any(point["answered"] >= share * 60 for point in summary["points"])


def test_words() -> None:
    right = np.array([True] * 8 + [False] * 2)
    words = in_words(summarise_curve(np.arange(10, 0, -1) / 10, right))
    assert words.startswith(
        "answering only the surest rows, 90 %: 89 % right (n=9); 80 %: 100 % right (n=8); 50 %: 100 % right (n=5);"
    )
    assert in_words(summarise_curve(np.full(10, 0.5), right)) == "", "there is but one point"


def test_the_summary_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    from tfew.summary import _print_probabilities

    calibration = {"ece": 0.1, "ece_calibrated": None, "rows": 10, "temperature": 1.0}
    right = np.array([True] * 8 + [False] * 2)
    summary = summarise_curve(np.arange(10, 0, -1) / 10, right)
    _print_probabilities({"calibration": calibration, "answering": summary})
    assert capsys.readouterr().out.splitlines()[1] == f"  {in_words(summary)}"
    _print_probabilities({"calibration": calibration})
    assert len(capsys.readouterr().out.splitlines()) == 1, "of a record of before"
