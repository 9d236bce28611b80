"""Figures 2 and 3 as points: each method's average accuracy over its trained parameters, or over its inference cost.

The paper's points come from its printed tables only, ours from records only.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

from tfew.errors import unknown_value_error
from tfew.paper.cells import Cell
from tfew.paper.reference import AVERAGE, printed_accuracies, specs
from tfew.paper.table import Table, make_table, runs_by_row
from tfew.paper.table_1 import table_1
from tfew.runs.records import RunRecord

FULL_MODEL_PERCENT = 99.0  # a method that trains at least this share counts as training the whole model


@dataclass(frozen=True)
class Point:
    """`x` in percent of parameters (Figure 2) or FLOPs per example (Figure 3), `accuracy` in percent."""

    name: str
    ours: bool
    x: float
    accuracy: float
    runs: int


@dataclass(frozen=True)
class Figure:
    """`model`: of our runs; `same_data`: whether it is the paper's, so that points can be compared."""

    number: str
    title: str
    x_label: str
    model: str
    same_data: bool
    points: tuple[Point, ...]
    notes: tuple[str, ...]

    def points_of(self, ours: bool) -> list[Point]:
        return [point for point in self.points if point.ours == ours]


def make_figure(number: str, records: Sequence[RunRecord], model: str | None = None) -> Figure:
    """Figure "2" or "3"; our rows have a point if all their data sets have runs, else a note."""
    made = {"2": _figure_2, "3": _figure_3}
    if number not in made:
        raise unknown_value_error("figure", number, specs()["figures"], "figure=")
    return made[number](number, records, model)


def _figure_2(number: str, records: Sequence[RunRecord], model: str | None) -> Figure:
    spec = specs()["figures"][number]
    table = make_table(spec["of"], records, model)
    runs = runs_by_row(spec["of"], records, model)
    points = []
    for row, share in spec["shares"].items():
        points.append(Point(row, False, share, mean(_printed_row(spec["of"], row)), 0))
        cell = table.cells[row][AVERAGE]
        counts = [run.parameters for run in runs[row] if run.parameters.get("total")]
        updated = [100 * count.get("trained", 0) / count["total"] for count in counts]
        if cell.ours is not None and updated:
            points.append(Point(row, True, median(updated), cell.ours, cell.runs))
    shares = "The paper's shares are its parameter counts over T0-3B's 2.85 billion, its averages means of its cells."
    stores = [note for row, found in runs.items() if (note := _training_note(row, found))]
    x_label = "parameters updated (% of the model, log scale)"
    return _figure(number, table, x_label, points, [shares, *stores])


def _figure_3(number: str, records: Sequence[RunRecord], model: str | None) -> Figure:
    spec = specs()["figures"][number]
    table = make_table(spec["of"], records, model)
    runs = runs_by_row(spec["of"], records, model)
    points = []
    for row, costs in table_1().items():
        cell = table.cells[row][AVERAGE]
        points.append(Point(row, False, costs.printed[0], costs.printed[3], 0))
        flops = _flops_per_example(runs[row])
        if cell.ours is not None and flops:
            points.append(Point(row, True, flops, cell.ours, cell.runs))
    measured = "Ours are FLOPs by the paper's formula at the measured lengths: per prompt, the median over data sets."
    x_label = "FLOPs to answer one example (log scale)"
    return _figure(number, table, x_label, points, [measured, *spec["notes"]])


def _figure(number: str, table: Table, x_label: str, points: Sequence[Point], notes: Sequence[str]) -> Figure:
    missing = [note for row, cells in table.cells.items() if (note := _missing_runs_note(row, table, cells))]
    spec = specs()["figures"][number]
    same = table.model == specs()["tables"][spec["of"]]["model"]
    return Figure(number, spec["title"], x_label, table.model, same, tuple(points), (*notes, *missing))


def _printed_row(table: str, row: str) -> list[float]:
    return [
        value
        for (of, name, column), (value, _) in printed_accuracies().items()
        if (of, name) == (table, row) and column
    ]


def _missing_runs_note(row: str, table: Table, cells: dict[str, Cell]) -> str | None:
    with_runs = [column for column in table.columns if cells[column].ours is not None]
    if not with_runs or len(with_runs) == len(table.columns):
        return None
    return f"No point of ours for {row}: {len(with_runs)} of {len(table.columns)} data sets have runs."


def _training_note(row: str, runs: Sequence[RunRecord]) -> str | None:
    """Prefix tuning trains a network that makes the prefixes, and keeps only these; the paper counts these."""
    counts = [(run.parameters.get("trained", 0), run.parameters.get("trainable", 0)) for run in runs]
    trained, kept = max(counts, default=(0, 0))
    return f"{row} trains {trained:,} numbers here and keeps {kept:,}." if kept and trained > kept else None


def _flops_per_example(runs: Sequence[RunRecord]) -> float | None:
    by_dataset: dict[str, list[float]] = {}
    for run in runs:
        if run.flops.get("evaluation") and run.counts.get("prompts"):
            by_dataset.setdefault(run.dataset, []).append(run.flops["evaluation"] / run.counts["prompts"])
    return median(mean(values) for values in by_dataset.values()) if by_dataset else None


def figure_csv(figure: Figure) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["figure", "model", "row", "source", "x", "accuracy", "runs"])
    for point in figure.points:
        source, model = ("ours", figure.model) if point.ours else ("paper", "")
        writer.writerow([
            figure.number, model, point.name, source, f"{point.x:.6g}", f"{point.accuracy:.2f}", point.runs
        ])  # fmt: skip
    return text.getvalue()
