"""Training curves of `metrics.csv`: the loss of the right answers, smoothed, as a median over runs."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

MAX_POINTS = 40  # of a curve
MIN_LOSS = 1e-6  # on the log scale
LOSSES = ("lm_loss", "loss")  # the first is comparable between losses, the second is the minimised sum

Curve = list[tuple[float, float]]


def read_curve(path: Path) -> Curve:
    """(Mean step, mean loss) of consecutive parts of the run; empty if the file is missing or has no such column."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            name = next((loss for loss in LOSSES if loss in (rows.fieldnames or ())), None)
            points = [(float(row["step"]), float(row[name])) for row in rows if name and row[name]]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return []
    points = [(step, max(loss, MIN_LOSS)) for step, loss in points if math.isfinite(loss)]
    size = max(1, -(-len(points) // MAX_POINTS))
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(fmean(step for step, _ in part), fmean(loss for _, loss in part)) for part in parts]


def median_curve(curves: Sequence[Curve]) -> tuple[list[float], list[float]]:
    """Steps, and the median loss over the runs that have the step."""
    by_step: dict[float, list[float]] = {}
    for curve in curves:
        for step, loss in curve:
            by_step.setdefault(step, []).append(loss)
    steps = sorted(by_step)
    return steps, [median(by_step[step]) for step in steps]
