"""The lowest threshold with a guaranteed error rate among the answered rows: fixed-sequence testing.

    H(t): of the rows whose label has probability t or more, more than `risk` are wrong

is tested for thresholds t from the highest down, each by the exact binomial probability of so few errors among so many
answered rows, and each at the full level 1 - confidence, up to the first that is not rejected (Learn then Test:
Angelopoulos et al. 2021, arXiv 2110.01052; Bauer 1991). The chance that a threshold with a higher error rate is chosen
is then at most 1 - confidence, over the draw of the held-out rows. The thresholds are the same for all data: levels in
equal steps of the log odds. Levels that answer too few rows for a rejection with ERRORS errors are skipped, so that one
wrong label among the most confident rows does not end the sequence; if that is over half of the held-out rows, fewer
errors are allowed. Skipping costs nothing unless more confident rows are wrong more often: it happens where few
rows are above the higher levels, so that more of those above the first tested level are less confident ones.
"""

import math
from dataclasses import dataclass

import numpy as np

from tfew.decisions.binomial import TINY, at_most, rows_to_show, upper_bound

STEP = 0.25  # of log odds
SUREST, LEAST_SURE = 12.0, -6.0
ERRORS = (2, 1, 0)
RISKS = np.arange(1, 1000) / 1000  # candidates for the lowest risk that can be guaranteed


def levels() -> list[float]:
    """Thresholds from the highest to 0, which answers every row."""
    odds = np.arange(SUREST, LEAST_SURE - STEP, -STEP)
    return [*(round(float(1 / (1 + math.exp(-x))), 6) for x in odds), 0.0]


@dataclass(frozen=True)
class Kept:
    """`threshold`, how many held-out rows it answers, how many of those are wrong, and the bound of their rate."""

    threshold: float
    answered: int
    wrong: int
    bound: float


def risk_threshold(top_R: np.ndarray, right_R: np.ndarray, risk: float, confidence: float) -> Kept | None:
    """`top_R`: the probability of each held-out row's label; `right_R`: whether it is right. None: no threshold can."""
    kept, least = None, _rows_to_begin_with(len(top_R), risk, confidence)
    for level, answered, wrong in _at_levels(top_R, right_R):
        if answered < least:
            continue
        if at_most(wrong, answered, risk) > 1 - confidence + TINY:
            break
        kept = Kept(level, answered, wrong, upper_bound(wrong, answered, confidence))
    return kept


def _rows_to_begin_with(rows: int, risk: float, confidence: float) -> int:
    found = [rows_to_show(errors, risk, confidence) for errors in ERRORS]
    return next((least for least in found if 2 * least <= rows), found[-1])


def lowest_risk(top_R: np.ndarray, right_R: np.ndarray, confidence: float) -> float | None:
    """The lowest risk, in steps of a thousandth, that some threshold guarantees; None if there is none."""
    return next((float(r) for r in RISKS if risk_threshold(top_R, right_R, float(r), confidence) is not None), None)


def rows_needed(top_R: np.ndarray, right_R: np.ndarray, risk: float, confidence: float) -> int | None:
    """About how many held-out rows a guarantee of this risk needs, if more rows are like these; None: no number helps.

    The fewest over all thresholds whose answered rows are wrong less often than `risk`, so that more rows with the same
    error rate would be enough.
    """
    found = []
    for _, answered, wrong in _at_levels(top_R, right_R):
        if answered and wrong / answered < risk:
            among = _answered_needed(wrong / answered, risk, confidence)
            found.append(math.ceil(among * len(top_R) / answered))
    return min(found, default=None)


def _answered_needed(rate: float, risk: float, confidence: float) -> int:
    rows = rows_to_show(0, risk, confidence)
    while at_most(math.ceil(rate * rows), rows, risk) > 1 - confidence:
        rows = math.ceil(rows * 1.05)
    return rows


def _at_levels(top_R: np.ndarray, right_R: np.ndarray) -> list[tuple[float, int, int]]:
    """For each level, how many rows it answers, and how many of those are wrong."""
    found = []
    for level in levels():
        answered_R = top_R >= level
        found.append((level, int(answered_R.sum()), int((answered_R & ~right_R).sum())))
    return found
