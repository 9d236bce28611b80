"""A table of the paper made from records: each cell ours, the paper's, and the difference (`tfew.paper.cells`)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tfew.errors import unknown_value_error
from tfew.paper.cells import ACCURACY, Cell, has_metric, is_pretrained, make_average, make_cell, template_scores
from tfew.paper.reference import AVERAGE, specs
from tfew.paper.table_1 import table_1
from tfew.paper.variants import differing_settings
from tfew.runs.records import RunRecord

FLOPS, BYTES = "flops", "bytes"
COSTS = {"inference": "inference FLOPs", "training": "training FLOPs", "disk": "disk space"}


@dataclass(frozen=True)
class Table:
    """`cells[row][column]`, the last column the average; `columns` maps data sets to column titles.

    `kinds`: the columns that are no accuracies, as FLOPS or BYTES.
    """

    number: str
    title: str
    model: str
    columns: dict[str, str]
    cells: dict[str, dict[str, Cell]]
    notes: tuple[str, ...]
    kinds: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> int:
        return sum(row[AVERAGE].runs for row in self.cells.values())


def make_table(number: str, records: Sequence[RunRecord], model: str | None = None) -> Table:
    """The paper's table `number` from runs of `model` (None: the paper's model); raises UserError for unknown numbers.

    Columns are the paper's data sets; for another model without runs on any of these, the data sets of its runs.
    """
    known = specs()["tables"]
    if number not in known:
        raise unknown_value_error("table", number, known, "table=")
    spec = known[number]
    if "averages_of" in spec:
        return _averages(number, spec, make_table(spec["averages_of"], records, model))
    by_row = runs_by_row(number, records, model)
    mine = [record for runs in by_row.values() for record in runs]
    shown = model or spec["model"]
    columns, metric = _columns(spec, [r for r in records if r.model == shown and _comparable(r)]), _metric(spec)
    # averages over other data sets cannot be compared with the paper's
    printed_in = spec.get("printed_averages", number) if columns == _paper_columns(spec) else None
    cells, apart = {}, set[str]()
    for name, runs in by_row.items():
        of = {column: [record for record in runs if record.dataset == column] for column in columns}
        row = {column: make_cell(number, name, column, of[column], metric) for column in columns}
        cells[name] = {**row, AVERAGE: make_average(printed_in, name, row)}
        apart.update(*map(differing_settings, of.values()))
    notes = (*spec.get("notes", ()), *_notes_on_runs([r for r in mine if r.dataset in columns], metric, apart))
    return Table(number, spec["title"], shown, columns, cells, notes)


def runs_by_row(number: str, records: Sequence[RunRecord], model: str | None = None) -> dict[str, list[RunRecord]]:
    """The runs that belong to each row of a table of accuracies, on any data set."""
    spec = specs()["tables"][number]
    other = model if model != spec["model"] else None  # for the paper's model, rows may have one of their own
    comparable = [record for record in records if _comparable(record, _metric(spec))]
    return {
        row: [
            record
            for record in comparable
            if select is not None
            and record.model == (other or select.get("model", spec["model"]))
            and _matches(record, select)
        ]
        for row, select in _selections(spec).items()
    }


def _averages(number: str, spec: Mapping[str, Any], source: Table) -> Table:
    """A table of another table's averages, with the rows' costs if the paper prints them."""
    cells = {row: {AVERAGE: cells[AVERAGE]} for row, cells in source.cells.items()}
    table = replace(source, number=number, title=spec["title"], columns={}, cells=cells)
    if not spec.get("costs"):
        return table
    costs = table_1()
    on_runs = [note for note in source.notes if note not in specs()["tables"][source.number]["notes"]]
    return replace(
        table,
        columns=COSTS,
        cells={row: {**_cost_cells(costs[row].formula, costs[row].paper), **cells[row]} for row in costs},
        notes=(*specs()["costs"]["notes"], *on_runs),
        kinds={"inference": FLOPS, "training": FLOPS, "disk": BYTES},
    )


def _cost_cells(formula: Sequence[float], paper: Sequence[float]) -> dict[str, Cell]:
    return {
        column: Cell(0, ours, None, printed, None) for column, ours, printed in zip(COSTS, formula, paper, strict=True)
    }


def _columns(spec: Mapping[str, Any], records: Sequence[RunRecord]) -> dict[str, str]:
    columns = _paper_columns(spec)
    found = sorted({record.dataset for record in records} - specs()["raft"].keys())
    own = "columns" not in spec and found and not columns.keys() & set(found)
    return dict(zip(found, found, strict=True)) if own else columns


def _paper_columns(spec: Mapping[str, Any]) -> dict[str, str]:
    columns: dict[str, str] = spec.get("columns") or specs()["columns"]
    return columns


def _metric(spec: Mapping[str, Any]) -> str:
    return str(spec.get("metric", ACCURACY))


def _selections(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The criteria that select the runs of each row."""
    if "rows" in spec:
        return dict(spec["rows"])
    return {row: {**spec["select"], "method": method} for row, method in spec["methods"].items()}


def _matches(record: RunRecord, select: Mapping[str, Any]) -> bool:
    if record.config.get("adapter") is not None:
        return False  # evaluates an adapter again, maybe on another data set
    if (command := select.get("command", "train")) is not None and record.command != command:
        return False
    has = {"method": record.method, "loss": record.loss, "pretrained": is_pretrained(record)}
    return all(select[key] == value for key, value in has.items() if key in select)


def _comparable(record: RunRecord, metric: str = ACCURACY) -> bool:
    """Whether a run has scores per template: mixtures and randomly drawn templates do not."""
    each = (record.config.get("templates") or {}).get("eval", "each") == "each"
    return each and bool(template_scores(record, metric))


def _notes_on_runs(records: Sequence[RunRecord], metric: str, apart: Collection[str]) -> list[str]:
    """`apart`: settings in which runs of one cell differ."""
    partly = sum(record.config.get("eval_rows") is not None for record in records)
    without = sum(not has_metric(record, metric) for record in records)
    notes = [f"{partly} of the runs here were evaluated on their first rows only (eval_rows=)."] if partly else []
    if without:
        notes.append(f"{without} of the runs here have no {metric}: their accuracy stands in its place.")
    if apart:
        notes.append(f"Runs of one cell differ in more than their seed: {', '.join(sorted(apart))}.")
    return notes
