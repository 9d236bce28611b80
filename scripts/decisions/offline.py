"""Promises of thresholds, sets and drift from a record's held-out rows, compared with results on its test rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scripts.decisions.records import Record, Scored
from tfew.decisions.conformal import label_level, label_set
from tfew.decisions.curve import coverage_threshold, curve_of
from tfew.decisions.drift import Counts, DriftReference, Finding
from tfew.decisions.held_out_scores import HeldOutScores
from tfew.decisions.risk import lowest_risk, risk_threshold
from tfew.ranking.temperature import fitted_temperature, probabilities


@dataclass(frozen=True)
class Answered:
    """Shares of the test rows: that were answered, and of these that were wrong; None where nothing was."""

    threshold: float | None
    coverage: float
    risk: float | None


@dataclass(frozen=True)
class Sets:
    """How often the set held the right label, and its mean size."""

    held: float
    size: float


def as_held_out(scored: Scored, temperature: float, in_folds: bool = False) -> HeldOutScores:
    probability_RC = probabilities(scored.scores_R1C, temperature)
    return HeldOutScores(probability_RC, np.array(scored.label), np.array(scored.log_mass), in_folds)


def areas(record: Record) -> tuple[float, float]:
    """Of held-out and of test rows, under risk by coverage."""
    rows = [as_held_out(part, record.temperature) for part in (record.held_out, record.test)]
    return curve_of(rows[0].top_R, rows[0].is_right_R).area, curve_of(rows[1].top_R, rows[1].is_right_R).area


def by_coverage(known: HeldOutScores, new: HeldOutScores, share: float) -> Answered:
    return _answered(new, coverage_threshold(known.top_R, share))


def by_risk(known: HeldOutScores, new: HeldOutScores, risk: float, confidence: float = 0.9) -> Answered:
    kept = risk_threshold(known.top_R, known.is_right_R, risk, confidence)
    return Answered(None, 0.0, None) if kept is None else _answered(new, kept.threshold)


def lowest(known: HeldOutScores, confidence: float = 0.9) -> float | None:
    return lowest_risk(known.top_R, known.is_right_R, confidence)


def _answered(new: HeldOutScores, threshold: float) -> Answered:
    answered_R = new.top_R >= threshold
    risk = float((~new.is_right_R)[answered_R].mean()) if answered_R.any() else None
    return Answered(threshold, float(answered_R.mean()), risk)


def sets(known: HeldOutScores, new: HeldOutScores, share: float) -> Sets:
    level = label_level(known.right_R, share)
    found = [label_set({str(c): float(p) for c, p in enumerate(row)}, level) for row in new.probability_RC]
    held = np.mean([str(label) in labels for label, labels in zip(new.label_R, found, strict=True)])
    return Sets(float(held), float(np.mean([len(labels) for labels in found])))


def adaptive_sets(known: HeldOutScores, new: HeldOutScores, share: float) -> Sets:
    """APS without chance (Romano et al. 2020): labels down to a total probability, the last one included."""
    totals = []
    for probability, label in zip(known.probability_RC, known.label_R, strict=True):
        totals.append(float(probability[probability >= probability[label]].sum()))
    place = math.ceil(round((len(totals) + 1) * share, 9))
    level = sorted(totals)[place - 1] if place <= len(totals) else math.inf
    held, sizes = [], []
    for probability, label in zip(new.probability_RC, new.label_R, strict=True):
        total_C = np.array([probability[probability >= own].sum() for own in probability])
        is_in_C = total_C <= level + 1e-12
        is_in_C[probability.argmax()] = True
        held.append(is_in_C[label])
        sizes.append(is_in_C.sum())
    return Sets(float(np.mean(held)), float(np.mean(sizes)))


def pooled(record: Record) -> Scored:
    """Rows that the kept adapter was not trained on, held-out ones (of `validation=`) and test ones."""
    one, other = record.held_out, record.test
    return Scored(one.scores + other.scores, one.log_mass + other.log_mass, one.label + other.label)


def _only(rows: Scored, places: Sequence[int]) -> Scored:
    return Scored(
        [rows.scores[place] for place in places],
        [rows.log_mass[place] for place in places],
        [rows.label[place] for place in places],
    )


def splits(record: Record, times: int, seed: int = 0) -> Sequence[tuple[HeldOutScores, HeldOutScores]]:
    """The pooled rows parted anew, so many of them as were held out, with a temperature of these; the rest is new."""
    rows, rng = pooled(record), np.random.default_rng(seed)
    found = []
    for _ in range(times):
        order = rng.permutation(len(rows.label))
        parts = [_only(rows, places.tolist()) for places in np.split(order, [len(record.held_out.label)])]
        temperature = fitted_temperature(parts[0].scores_R1C, np.array(parts[0].label))
        found.append((as_held_out(parts[0], temperature), as_held_out(parts[1], temperature)))
    return found


def drift(record: Record, new: Scored) -> tuple[list[Finding], list[Finding]]:
    """All findings, and those that are raised."""
    known, rows = (as_held_out(part, record.temperature) for part in (record.held_out, new))
    reference = DriftReference(known, record.labels)
    counts: Counts = {}
    labels = [record.labels[place] for place in rows.predicted_R]
    reference.count(counts, rows.top_R.tolist(), rows.log_mass_R.tolist(), labels)
    return reference.findings(counts), reference.raised(counts)
