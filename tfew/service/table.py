"""The page's tables: CSV in, the same table with labels out. Read in the same way as by other commands."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tfew.errors import UserError
from tfew.tables.rows import StreamPosition
from tfew.tables.stream import open_bytes

if TYPE_CHECKING:
    from tfew.prediction.task_predictor import Labelled

LABEL, PROBABILITY, SET = "label", "probability", "set"


def read_table(body: bytes, most_rows: int) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows, at most `most_rows` + 1; raises UserError unless it is a table with a header line."""
    stream = open_bytes(body, "csv", "The table")
    rows: list[dict[str, Any]] = []
    for found in stream.rows(StreamPosition()):
        if found.row is None:
            raise UserError(f"Row {found.place.row} (line {found.place.line}) {found.problem}.")
        rows.append(dict(found.row))
        if len(rows) > most_rows:
            break
    if not rows:
        raise UserError("The table has no rows below its header line.")
    return list(stream.columns or ()), rows


def write_table(columns: Sequence[str], rows: Sequence[dict[str, Any]], labelled: Sequence["Labelled"]) -> str:
    """The table with two more columns, label and probability, renamed if the table has columns of that name.

    The label is empty if a row got none; with sets of labels there is a third column, a list in JSON."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    sets = any(found.labels is not None for found in labelled)
    added = list(_free_names(columns, (LABEL, PROBABILITY, *((SET,) if sets else ()))))
    writer.writerow([*columns, *added])
    for row, found in zip(rows, labelled, strict=True):
        labels = [json.dumps(found.labels, ensure_ascii=False)] if sets else []
        writer.writerow([*row.values(), found.label, f"{found.probability:.4f}", *labels])
    return text.getvalue()


def _free_names(columns: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    for name in names:
        while name in columns:
            name = f"predicted_{name}"
        yield name
