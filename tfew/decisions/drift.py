"""Drift tests: whether new rows are scored like the held-out ones. They need a few counts, for any number of rows.

* probability: of the predicted label; two-sample Kolmogorov-Smirnov
* mass: of all labels together, of everything the model might answer; the same test
* label: how often each is predicted; chi-squared test of homogeneity, rare labels together

The Kolmogorov-Smirnov distance is exact: between two neighbouring held-out values the held-out share is constant, so
that it is enough to count the new values in each gap, and on each value. Of very many held-out rows POINTS are used;
this can only make the distance smaller. Its asymptotic p value is conservative for few rows.

A signal is raised if its p value is below ALARM / number of signals (Bonferroni: a run without drift raises any with
probability ALARM at most) and its distance is at least LEAST_DISTANCE (for labels, of the total variation): with a
million rows the smallest difference is significant.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfew.decisions.held_out_scores import HeldOutScores

ALARM = 0.01
LEAST_DISTANCE = 0.15
LEAST_ROWS = 20  # held-out, and new; with fewer there is no test
LEAST_EXPECTED = 5.0  # rows with a label, in the chi-squared test
POINTS = 256
PROBABILITY, MASS, LABEL = "probability", "mass", "label"

Counts = dict[str, list[int]]  # by signal; JSON-compatible, so that a resumed run continues counting


@dataclass(frozen=True)
class Finding:
    """`distance` of two distributions, 0 to 1; `p` value; `detail` in words."""

    signal: str
    distance: float
    p: float
    detail: str


class DriftReference:
    """The held-out rows' distributions. `labels`: names of the choices, None if each row has its own."""

    def __init__(self, rows: HeldOutScores, labels: Sequence[str] | None) -> None:
        self.rows, self.labels = rows.rows, None if labels is None else list(labels)
        self._values = {PROBABILITY: np.sort(rows.top_R), MASS: np.sort(rows.log_mass_R)}
        self._points = {name: _thinned(values) for name, values in self._values.items()}
        self._by_label = np.bincount(rows.predicted_R, minlength=len(labels or ()))

    @property
    def signals(self) -> list[str]:
        return [PROBABILITY, MASS, *([] if self.labels is None else [LABEL])]

    def count(self, counts: Counts, tops: Sequence[float], masses: Sequence[float], labels: Sequence[str]) -> None:
        """Adds rows to `counts` in place; `counts` may be empty."""
        for name, values in ((PROBABILITY, tops), (MASS, masses)):
            points = self._points[name]
            # 2 i + 1: on point i; 2 i: in the gap below it
            places = np.searchsorted(points, values, "left") + np.searchsorted(points, values, "right")
            self._add(counts, name, np.bincount(places, minlength=2 * len(points) + 1))
        if self.labels is not None:
            index = {label: place for place, label in enumerate(self.labels)}
            self._add(counts, LABEL, np.bincount([index[label] for label in labels], minlength=len(self.labels)))

    def _add(self, counts: Counts, name: str, added: np.ndarray) -> None:
        counts[name] = (np.array(counts.get(name) or np.zeros(len(added), np.int64)) + added).tolist()

    def findings(self, counts: Mapping[str, Sequence[int]]) -> list[Finding]:
        """One per signal; none if there are too few rows."""
        if self.rows < LEAST_ROWS or sum(counts.get(PROBABILITY, ())) < LEAST_ROWS:
            return []
        found = [self._of_values(name, np.array(counts[name])) for name in (PROBABILITY, MASS)]
        return [*found, *([] if self.labels is None else [self._of_labels(np.array(counts[LABEL]))])]

    def raised(self, counts: Mapping[str, Sequence[int]]) -> list[Finding]:
        """The findings that show drift."""
        level = ALARM / len(self.signals)
        return [found for found in self.findings(counts) if found.p < level and found.distance >= LEAST_DISTANCE]

    def _of_values(self, name: str, count_G: np.ndarray) -> Finding:
        values, points, new = self._values[name], self._points[name], int(count_G.sum())
        up_to_G = np.cumsum(count_G)
        new_below, new_up_to = up_to_G[0:-1:2] / new, up_to_G[1::2] / new
        below = np.searchsorted(values, points, "left") / self.rows
        up_to = np.searchsorted(values, points, "right") / self.rows
        distance = float(max(np.abs(new_below - below).max(), np.abs(new_up_to - up_to).max()))
        middle = int(np.searchsorted(points, np.median(values), "left"))
        lower = new_below[middle] if middle < len(points) else 1.0
        detail = f"{100 * lower:.0f} % of the new rows are below the held-out median"
        return Finding(name, distance, kolmogorov_smirnov_p(distance, self.rows, new), detail)

    def _of_labels(self, new_C: np.ndarray) -> Finding:
        assert self.labels is not None
        old, new = self._by_label / self.rows, new_C / new_C.sum()
        most = int(np.abs(new - old).argmax())
        detail = f"{self.labels[most]} {100 * new[most]:.0f} % against {100 * old[most]:.0f} %"
        p = homogeneity_p(self._by_label, new_C)
        return Finding(LABEL, float(np.abs(new - old).sum() / 2), p, detail)


def kolmogorov_smirnov_p(distance: float, rows: int, others: int) -> float:
    """Asymptotic, of two samples of these sizes."""
    from scipy.special import kolmogorov  # not at start-up

    return float(kolmogorov(distance * math.sqrt(rows * others / (rows + others))))


def homogeneity_p(count_C: np.ndarray, other_C: np.ndarray) -> float:
    """Chi-squared test that two samples have the same shares of C labels; labels with few rows count as one."""
    from scipy.special import chdtrc

    table = np.stack([count_C, other_C]).astype(float)
    table = table[:, table.sum(0) > 0]
    expected = table.sum(0) * table.sum(1, keepdims=True) / table.sum()
    is_rare = expected.min(0) < LEAST_EXPECTED
    if is_rare.any():
        table = np.concatenate([table[:, ~is_rare], table[:, is_rare].sum(1, keepdims=True)], 1)
    expected = table.sum(0) * table.sum(1, keepdims=True) / table.sum()
    if expected.shape[1] > 2 and expected[:, -1].min() < LEAST_EXPECTED:  # the rare ones are still few when merged
        table, expected = table[:, :-1], expected[:, :-1]
        expected = table.sum(0) * table.sum(1, keepdims=True) / table.sum()
    if table.shape[1] < 2:
        return 1.0
    return float(chdtrc(table.shape[1] - 1, ((table - expected) ** 2 / expected).sum()))


def _thinned(values: np.ndarray) -> np.ndarray:
    """The distinct values, sorted; at most POINTS of them."""
    points = np.unique(values)
    if len(points) <= POINTS:
        return points
    return points[np.linspace(0, len(points) - 1, POINTS).round().astype(int)]
