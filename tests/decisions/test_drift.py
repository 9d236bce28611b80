"""Drift: the distance against scipy's, false alarms counted, and a change that is found."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from tests.decisions.rows import counted, draw, held_out, made, softmax
from tfew.decisions import drift
from tfew.decisions.drift import ALARM, LABEL, LEAST_DISTANCE, MASS, PROBABILITY, Counts, DriftReference, homogeneity_p
from tfew.decisions.held_out_scores import HeldOutScores, log_mass

NAMES = ["a", "b", "c", "d"]


def count(reference: DriftReference, rows: HeldOutScores, parts: int = 1) -> Counts:
    """As a run of many rows does, in some windows; in between the counts go through JSON."""
    counts: Counts = {}
    for part in np.array_split(np.arange(rows.rows), parts):
        labels = [NAMES[label] for label in rows.predicted_R[part]]
        reference.count(counts, rows.top_R[part], rows.log_mass_R[part], labels)
        counts = json.loads(json.dumps(counts))
    return counts


@pytest.mark.parametrize("digits", [1, 2, 9])
def test_the_distance_is_exact(digits: int) -> None:
    """Also with equal values, which rounding makes."""
    ours, theirs = made(70, seed=1), made(150, seed=2, sharpness=1.5)
    values = [np.round(rows.top_R, digits) for rows in (ours, theirs)]
    known, new = (
        HeldOutScores(rows.probability_RC, rows.label_R, top, False)
        for rows, top in zip((ours, theirs), values, strict=True)
    )
    reference = DriftReference(known, NAMES)
    by_signal = {found.signal: found for found in reference.findings(count(reference, new, parts=7))}
    expected = stats.ks_2samp(*values, method="asymp")
    assert by_signal[MASS].distance == pytest.approx(expected.statistic, abs=1e-12)
    full = stats.ks_2samp(ours.top_R, theirs.top_R)
    assert by_signal[PROBABILITY].distance == pytest.approx(full.statistic, abs=1e-12)
    assert by_signal[PROBABILITY].p >= 0.8 * full.pvalue, "on the safe side of the exact one"
    assert by_signal[PROBABILITY].p == pytest.approx(full.pvalue, rel=0.5, abs=0.02)


def test_of_very_many_held_out_rows_some_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    known, new = made(3000, seed=1), made(500, seed=2, sharpness=1.5)
    reference = DriftReference(known, NAMES)
    counts = count(reference, new)
    assert len(counts[PROBABILITY]) == 2 * drift.POINTS + 1, "memory does not depend on rows"
    found = reference.findings(counts)[0].distance
    exact = stats.ks_2samp(known.top_R, new.top_R).statistic
    assert exact - 2 / drift.POINTS <= found <= exact + 1e-12


def test_labels_are_compared_as_scipy_does() -> None:
    counts, others = np.array([30, 20, 10]), np.array([100, 140, 60])
    expected = stats.chi2_contingency(np.stack([counts, others]), correction=False).pvalue
    assert homogeneity_p(counts, others) == pytest.approx(expected)
    pooled = stats.chi2_contingency([[30, 20, 6], [100, 140, 60]], correction=False).pvalue
    assert homogeneity_p(np.array([30, 20, 2, 1, 3]), np.array([100, 140, 20, 25, 15])) == pytest.approx(pooled)
    assert homogeneity_p(np.array([30, 0]), np.array([70, 0])) == 1


@pytest.mark.parametrize(("known_rows", "new_rows"), [(40, 60), (96, 3000), (500, 500)])
def test_false_alarms(known_rows: int, new_rows: int) -> None:
    """At most as often as promised, of rows of the same kind."""

    def alarms(rng: np.random.Generator) -> bool:
        rows = []
        for number in (known_rows, new_rows):
            scores, label = draw(rng, number)
            rows.append(held_out(softmax(scores), label))
        reference = DriftReference(rows[0], NAMES)
        return bool(reference.raised(count(reference, rows[1])))

    assert counted(300, alarms) <= ALARM + 2.4 * math.sqrt(ALARM * (1 - ALARM) / 300)


def test_a_change_is_found_and_named() -> None:
    known, new = made(96, seed=1, sharpness=4), made(400, seed=2, sharpness=1)
    reference = DriftReference(known, NAMES)
    raised = {found.signal for found in reference.raised(count(reference, new))}
    assert raised >= {PROBABILITY, MASS}


def test_labels_that_come_otherwise_are_found() -> None:
    known, new = made(200, seed=1), made(400, seed=2)
    one = HeldOutScores(new.probability_RC[new.predicted_R == 1], new.label_R[new.predicted_R == 1],
                        new.log_mass_R[new.predicted_R == 1], False)  # fmt: skip
    reference = DriftReference(known, NAMES)
    by_signal = {found.signal: found for found in reference.raised(count(reference, one))}
    assert by_signal[LABEL].detail.startswith("b 100 % against ")


def test_a_significant_trifle_is_no_change() -> None:
    known, new = made(20_000, seed=1, sharpness=2.5), made(20_000, seed=2, sharpness=2.6)
    reference = DriftReference(known, NAMES)
    found = reference.findings(count(reference, new))[0]
    assert found.p < 1e-3
    assert found.distance < LEAST_DISTANCE
    assert not reference.raised(count(reference, new))


def test_few_rows_say_nothing() -> None:
    known, new = made(96, seed=1, sharpness=4), made(drift.LEAST_ROWS - 1, seed=2, sharpness=0.1)
    assert DriftReference(known, NAMES).findings(count(DriftReference(known, NAMES), new)) == []
    assert DriftReference(new, NAMES).findings(count(DriftReference(new, NAMES), known)) == []
    assert DriftReference(known, NAMES).findings({}) == []


def test_rows_with_choices_of_their_own_have_no_labels_to_compare() -> None:
    known = made(60)
    reference = DriftReference(known, None)
    counts: Counts = {}
    reference.count(counts, known.top_R, known.log_mass_R, ["x"] * 60)
    assert set(counts) == {PROBABILITY, MASS}
    assert [found.signal for found in reference.findings(counts)] == [PROBABILITY, MASS]


def test_mass_of_all_choices() -> None:
    """The mean over templates of the log of the sum; absent templates and choices are left out."""
    sums = np.log([[[0.2, 0.3], [0.1, 0.1]], [[0.5, 0.25], [1, 1]]])
    sums[1, 1] = -np.inf
    sums[0, 1, 1] = -np.inf
    assert log_mass(sums) == pytest.approx([(math.log(0.5) + math.log(0.1)) / 2, math.log(0.75)])
