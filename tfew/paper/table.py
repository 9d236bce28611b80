"""A table of the paper made from records: each cell ours, the paper's, and the difference. In percent.

A cell is the median over all runs' few-shot seeds and all templates together, its bracket the interquartile range of
the same numbers (section 3.1; numpy's percentiles, as the official `get_result_table.py`). A row's average is the mean
of its medians, and missing as long as one of them is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tfew.errors import UserError, unknown
from tfew.paper.reference import AVERAGE, printed
from tfew.records import ZERO_SHOT, RunRecord

SPECS = Path(__file__).with_name("tables.yaml")


@dataclass(frozen=True)
class Cell:
    """None where there is no number; `runs` are those behind ours."""

    runs: int
    ours: float | None
    ours_iqr: float | None
    paper: float | None
    paper_iqr: float | None

    @property
    def difference(self) -> float | None:
        return None if self.ours is None or self.paper is None else self.ours - self.paper


@dataclass(frozen=True)
class Table:
    """`cells[row][column]`, the last column the average; `columns` maps names of data sets to those that are shown."""

    number: str
    title: str
    model: str
    columns: dict[str, str]
    cells: dict[str, dict[str, Cell]]
    notes: tuple[str, ...]


@cache
def specs() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(SPECS.read_text(encoding="utf-8"))
    return loaded


def make_table(number: str, records: Sequence[RunRecord], model: str | None = None) -> Table:
    """The paper's table `number` of runs of `model`, None: the paper's; raises UserError for a number there is not.

    Columns are the paper's data sets; with another model and none of these among its runs, the data sets of the runs.
    """
    known = specs()["tables"]
    if number not in known:
        raise unknown("table", number, known, "table=")
    spec = known[number]
    model = model or spec["model"]
    # a mixture has members and no templates; templates drawn at random have no median over them
    mine = [r for r in records if r.model == model and len(r.metrics.get("templates", ())) and _each_template(r)]
    columns = _columns(mine)
    cells = {}
    for name, select in _selections(spec).items():
        runs = [record for record in mine if select is not None and _matches(record, select)]
        row = {column: _cell(number, name, column, _of(column, runs)) for column in columns}
        cells[name] = {**row, AVERAGE: _average(spec.get("averages_of", number), name, row)}
    partly = sum(record.config.get("eval_rows") is not None for record in mine)
    notes = [f"{partly} of the runs here were evaluated on their first rows only (eval_rows=)."] if partly else []
    return Table(number, spec["title"], model, columns, cells, (*spec.get("notes", ()), *notes))


def _columns(records: Sequence[RunRecord]) -> dict[str, str]:
    columns: dict[str, str] = specs()["columns"]
    found = sorted({record.dataset for record in records})
    return dict(zip(found, found, strict=True)) if found and not columns.keys() & set(found) else columns


def _selections(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a run of each row is told by."""
    if "rows" in spec:
        return dict(spec["rows"])
    return {row: {**spec["select"], "method": method} for row, method in spec["methods"].items()}


def _matches(record: RunRecord, select: Mapping[str, Any]) -> bool:
    if record.command != ("evaluate" if record.method == ZERO_SHOT else "train"):
        return False  # an adapter that is evaluated again, maybe on another data set
    has = {"method": record.method, "loss": record.loss, "pretrained": record.config.get("init_adapter") is not None}
    return all(has[key] == wanted for key, wanted in select.items())


def _each_template(record: RunRecord) -> bool:
    return bool(record.config.get("templates", {}).get("eval", "each") == "each")


def _of(dataset: str, records: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs on a data set; raises UserError where two runs are of one seed, since neither may be preferred."""
    found = [record for record in records if record.dataset == dataset]
    by_seed: dict[int, str] = {}
    for record in found:
        if (other := by_seed.setdefault(record.few_shot_seed, record.name)) != record.name:
            raise UserError(
                f"Two runs of one cell have the few-shot seed {record.few_shot_seed}: {other} and {record.name}."
                " Put the runs of one comparison into a folder of their own and name it (runs=)."
            )
    return found


def _cell(number: str, row: str, column: str, records: Sequence[RunRecord]) -> Cell:
    paper, paper_iqr = printed().get((number, row, column), (None, None))
    values = [100 * t["accuracy"] for record in records for t in record.metrics["templates"].values()]
    if not values:
        return Cell(0, None, None, paper, paper_iqr)
    low, median, high = np.percentile(values, [25, 50, 75])
    return Cell(len(records), float(median), float(high - low), paper, paper_iqr)


def _average(number: str, row: str, cells: Mapping[str, Cell]) -> Cell:
    paper, _ = printed().get((number, row, AVERAGE), (None, None))
    ours = [cell.ours for cell in cells.values()]
    known = [value for value in ours if value is not None]
    mean = sum(known) / len(known) if known and len(known) == len(ours) else None
    return Cell(sum(cell.runs for cell in cells.values()), mean, None, paper, None)
