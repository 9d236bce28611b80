"""One cell of a table: ours, from runs, the paper's number, and the difference. In percent.

A cell is the median over few-shot seeds and templates together; the number in brackets is the interquartile range of
the same numbers (section 3.1; numpy's percentiles, as the official `get_result_table.py`). A row's average is the mean
of its medians, and missing as long as one of them is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfew.errors import UserError
from tfew.paper.reference import AVERAGE, printed_accuracies
from tfew.runs.records import RunRecord

ACCURACY = "accuracy"


@dataclass(frozen=True)
class Cell:
    """None for missing numbers; `runs`: how many ours is made from, 0 for costs by formula."""

    runs: int
    ours: float | None
    ours_iqr: float | None
    paper: float | None
    paper_iqr: float | None

    @property
    def difference(self) -> float | None:
        return None if self.ours is None or self.paper is None else self.ours - self.paper


def template_scores(record: RunRecord, metric: str = ACCURACY) -> dict[str, float]:
    """Percent by template: `metric` if the record has it, per template or for the whole run; else accuracy.

    Empty if nothing was scored: without labels, or in a mixture, which has no templates of its own.
    """
    templates = record.metrics.get("templates", {})
    each = bool(templates) and all(metric in scores for scores in templates.values())
    if metric != ACCURACY and metric in record.metrics and not each:
        found = {"": record.metrics[metric]}
    else:
        key = metric if has_metric(record, metric) else ACCURACY
        found = {name: scores[key] for name, scores in templates.items()}
    return {name: 100 * value for name, value in found.items() if value is not None and math.isfinite(value)}


def has_metric(record: RunRecord, metric: str) -> bool:
    templates = record.metrics.get("templates", {})
    return metric in record.metrics or bool(templates and all(metric in scores for scores in templates.values()))


def median_and_iqr(values: Sequence[float]) -> tuple[float, float]:
    low, median, high = np.percentile(values, [25, 50, 75])
    return float(median), float(high - low)


def make_cell(number: str, row: str, column: str, records: Sequence[RunRecord], metric: str = ACCURACY) -> Cell:
    """The cell of these runs on one data set; raises UserError if they do not belong in one cell."""
    paper, paper_iqr = printed_accuracies().get((number, row, column), (None, None))
    _check_one_cell(records)
    values = [value for record in records for value in template_scores(record, metric).values()]
    if not values:
        return Cell(0, None, None, paper, paper_iqr)
    median, iqr = median_and_iqr(values)
    return Cell(len(records), median, iqr, paper, paper_iqr)


def make_average(printed_in: str | None, row: str, cells: Mapping[str, Cell]) -> Cell:
    """`printed_in`: the paper's table with the averages, None if there is nothing to compare with."""
    paper = printed_accuracies().get((printed_in, row, AVERAGE), (None, None))[0] if printed_in else None
    ours = [cell.ours for cell in cells.values()]
    known = [value for value in ours if value is not None]
    mean = sum(known) / len(known) if known and len(known) == len(ours) else None
    return Cell(sum(cell.runs for cell in cells.values()), mean, None, paper, None)


def _check_one_cell(records: Sequence[RunRecord]) -> None:
    """Raises UserError for two runs of one few-shot seed, and for runs that differ in the order of shots instead."""
    by_seed: dict[int, str] = {}
    for record in records:
        if (other := by_seed.setdefault(record.few_shot_seed, record.name)) != record.name:
            raise _conflict_error(f"the few-shot seed {record.few_shot_seed}", other, record.name)
    orders = {record.name: order_seed(record) for record in records}
    if len(set(orders.values())) > 1 and any(order_seed(record) != record.few_shot_seed for record in records):
        first, *others = orders
        other = next(name for name in others if orders[name] != orders[first])
        raise _conflict_error(
            f"different orders of their shots (order_seed {orders[first]}, {orders[other]})", first, other
        )


def is_pretrained(record: RunRecord) -> bool:
    return record.config.get("init_adapter") is not None


def order_seed(record: RunRecord) -> int | None:
    """The seed of the order of in-context shots; None without a context."""
    settings = record.config.get("icl") or {}
    return settings.get("order_seed") if settings.get("mode") not in (None, "none") else None


def _conflict_error(what: str, first: str, second: str) -> UserError:
    return UserError(
        f"Two runs of one cell have {what}: {first} and {second}."
        " Put the runs of one comparison into a folder of their own and name it (runs=)."
    )
