"""Reads a user's table of unknown columns, whole: CSV, TSV, JSON lines, Parquet or Excel, also as .gz.

Errors name the row, counted from 1 after the header, and the line. The file's format is detected as for any
other command (`tfew.tables.stream`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfew.errors import UserError
from tfew.tables.rows import RowStream, StreamPosition
from tfew.tables.stream import TABLES, file_ending, open_stream, unknown_ending

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A whole table. `columns` are in the file's order; a row that lacks one has None there.

    classes: the class names of columns that the Hub declares as ClassLabel. formats: how the file is written, in the
    form of `dataset.formats`, if that is unusual; notes: the same in words.
    """

    where: str
    columns: list[str]
    rows: list[Row]
    classes: Mapping[str, list[str]] = field(default_factory=dict)
    formats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def read_table(path: Path) -> Table:
    """Raises UserError for the first row that cannot be read."""
    if file_ending(str(path)) not in TABLES:
        raise unknown_ending(str(path), TABLES)
    stream = open_stream(str(path), None, None)
    try:
        rows = _rows(stream, path)
    finally:
        stream.close()
    if not rows:
        raise UserError(f"{path} holds no rows.")
    columns = list(stream.columns or dict.fromkeys(column for row in rows for column in row))
    rows = [{column: row.get(column) for column in columns} for row in rows]
    return Table(str(path), columns, rows, formats=stream.formats, notes=stream.notes)


def _rows(stream: RowStream, path: Path) -> list[Row]:
    rows = []
    for found in stream.rows(StreamPosition()):
        if found.row is None:
            line = f" (line {found.place.line})" if stream.has_lines else ""
            raise UserError(f"{path}, row {found.place.row}{line} {found.problem}.")
        rows.append(dict(found.row))
    return rows
