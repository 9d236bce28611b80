"""Risk-coverage curves: accuracy on the most confident rows, by coverage, the share of rows that are answered.

The area is that under the error rate by coverage (AURC; Geifman et al. 2019, arXiv 1805.08206): 0 is best; with
uninformative probabilities it equals the error rate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # of rows, in the summary
SPOKEN = (0.9, 0.8, 0.5)  # of these, those printed in words


@dataclass(frozen=True)
class Curve:
    """One point per distinct set of answered rows, the fewest rows first."""

    threshold_K: np.ndarray
    answered_K: np.ndarray
    right_K: np.ndarray

    @property
    def rows(self) -> int:
        return int(self.answered_K[-1])

    @property
    def area(self) -> float:
        added_K = np.diff(self.answered_K, prepend=0)
        return float((added_K * (1 - self.right_K / self.answered_K)).sum() / self.rows)

    def place(self, share: float) -> int:
        """The point with the fewest rows that answers at least this share of all."""
        return int(np.searchsorted(self.answered_K, math.ceil(round(share * self.rows, 9))))


def curve_of(top_R: np.ndarray, right_R: np.ndarray) -> Curve:
    """`top_R`: the probability of each row's label; `right_R`: whether it is right. Ties are answered together."""
    order = np.argsort(-top_R, kind="stable")
    sorted_R = top_R[order]
    last_K = np.flatnonzero(np.append(sorted_R[1:] != sorted_R[:-1], True))
    return Curve(sorted_R[last_K], last_K + 1, np.cumsum(right_R[order])[last_K])


def coverage_threshold(top_R: np.ndarray, share: float) -> float:
    """The highest threshold, rounded down to six digits, that answers at least this share of these rows."""
    curve = curve_of(top_R, np.ones(len(top_R), bool))
    return math.floor(float(curve.threshold_K[curve.place(share)]) * 1e6) / 1e6


def summarise_curve(top_R: np.ndarray, right_R: np.ndarray) -> dict[str, Any]:
    """area, rows, and points: at each of SHARES the threshold, the rows that it answers, and how many are right."""
    curve = curve_of(top_R, right_R)
    places = dict.fromkeys(curve.place(share) for share in SHARES)
    points = [
        {
            "threshold": float(curve.threshold_K[place]),
            "answered": int(curve.answered_K[place]),
            "right": int(curve.right_K[place]),
        }
        for place in places
    ]
    return {"area": curve.area, "rows": curve.rows, "points": points}


def in_words(summary: Mapping[str, Any]) -> str:
    """A few points of `summarise_curve`; empty if its only point is all rows."""
    rows, points = summary["rows"], summary["points"]
    chosen: list[Mapping[str, Any]] = []
    for share in SPOKEN:
        fewest = [point for point in points if share * rows <= point["answered"] < rows]
        if fewest and fewest[-1] not in chosen:
            chosen.append(fewest[-1])
    named = [f"{_percent(p['answered'] / rows)}: {_percent(p['right'] / p['answered'])} right (n={p['answered']})"
             for p in chosen]  # fmt: skip
    if not named:
        return ""
    return f"answering only the surest rows, {'; '.join(named)}; area under risk-coverage {summary['area']:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def points_of(curve: Curve) -> Sequence[tuple[float, float]]:
    """(coverage, accuracy) of each point, for a figure."""
    return [(float(c), float(a)) for c, a in zip(curve.answered_K / curve.rows, curve.right_K / curve.answered_K,
                                                 strict=True)]  # fmt: skip
