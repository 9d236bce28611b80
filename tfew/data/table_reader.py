"""Reads a user's table of unknown columns: CSV, TSV, JSON lines or Parquet.

Rows are read one at a time, so that a file may have any length. Errors name the row, counted from 1 after the header.
The encoding is UTF-8, with or without a byte-order mark; the delimiter is detected.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tfew.errors import UserError, unknown_value_error
from tfew.files.untrusted import parse_json

Row = dict[str, Any]
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
DELIMITERS = (",", ";", "\t", "|")
MAX_CELL_CHARACTERS = 10_000_000
SAMPLE_LINES = 200  # from which the delimiter is detected


@dataclass(frozen=True)
class Table:
    """A whole table. `columns` are in the file's order; a row that lacks one has None there.

    classes: the class names of columns that the Hub declares as ClassLabel. formats: the file's delimiter and quoting,
    in the form of `dataset.formats`, if they are unusual.
    """

    where: str
    columns: list[str]
    rows: list[Row]
    classes: Mapping[str, list[str]] = field(default_factory=dict)
    formats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_table(path: Path) -> Table:
    rows = list(iter_rows(path))
    if not rows:
        raise UserError(f"{path} holds no rows.")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    rows = [{column: row.get(column) for column in columns} for row in rows]
    return Table(str(path), columns, rows, formats=_formats(path))


def _formats(path: Path) -> dict[str, dict[str, Any]]:
    ending = path.suffix.lower()
    usual = {".csv": (",", csv.QUOTE_MINIMAL), ".tsv": ("\t", csv.QUOTE_MINIMAL)}.get(ending)
    if usual is None or (form := _detect_format(path)) == usual:
        return {}
    return {ending[1:]: {"delimiter": form[0], "quoting": form[1] == csv.QUOTE_MINIMAL}}


def iter_rows(path: Path) -> Iterator[Row]:
    """The rows of a file; raises UserError, for a bad row when it is reached."""
    ending = path.suffix.lower()
    if ending not in SUFFIXES:
        raise unknown_value_error("file ending", path.suffix, SUFFIXES, f"of {path}")
    if not path.is_file():
        raise UserError(f"{path} {'is a folder' if path.exists() else 'does not exist'}.")
    reader = {".jsonl": _json_rows, ".parquet": _parquet_rows}.get(ending, _delimited_rows)
    try:
        yield from reader(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


@dataclass
class _Lines:
    """Lines of a file as text; `number` is the last one's, from 1."""

    path: Path
    number: int = field(default=0)

    def __iter__(self) -> Iterator[str]:
        with self.path.open("rb") as file:
            for self.number, line in enumerate(file, start=1):
                if self.number == 1:
                    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                        raise UserError(f"{self.path} is UTF-16: save it as UTF-8.")
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if b"\0" in line:
                    raise UserError(f"{self.path}, line {self.number} holds a NUL byte: is it a text file?")
                try:
                    yield line.decode("utf-8")
                except UnicodeDecodeError as error:
                    bad = f"0x{line[error.start]:02x}"
                    raise UserError(
                        f"{self.path}, line {self.number} is not UTF-8 (byte {bad} at place {error.start + 1}): save"
                        " the file as UTF-8."
                    ) from error


def _json_rows(path: Path) -> Iterator[Row]:
    lines = _Lines(path)
    number = 0
    for line in lines:
        if not line.strip():
            continue
        number += 1
        where = f"{path}, row {number} (line {lines.number})"
        try:
            row = parse_json(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where} is not valid JSON: {error.msg} at column {error.colno}.") from error
        except ValueError as error:
            raise UserError(f"{where} is not valid JSON: {error}.") from error
        if not isinstance(row, dict):
            raise UserError(f"{where} is {type(row).__name__}, not a JSON object.")
        yield row


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_header(path, file.schema_arrow.names)
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())}.") from error


def _delimited_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    delimiter, quoting = _detect_format(path)
    lines = _Lines(path)
    cells = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    header: list[str] | None = None
    number = 0
    try:
        for row in cells:
            if not row:
                continue  # an empty line
            if header is None:
                header = [name.strip() for name in row]
                _check_header(path, header)
                continue
            number += 1
            if len(row) != len(header):
                raise UserError(
                    f"{path}, row {number} (line {lines.number}) has {len(row)} cells, the header has {len(header)}: a"
                    f" cell that holds {_describe_delimiter(delimiter)}, a line break or a quotation mark must be"
                    " quoted."
                )
            yield {name: cell for name, cell in zip(header, row, strict=True) if name}
    except csv.Error as error:
        raise UserError(f"{path}, row {number + 1} (line {lines.number}) cannot be read: {error}.") from error
    if header is None:
        raise UserError(f"{path} is empty.")


def _check_header(path: Path, header: list[str]) -> None:
    """Raises UserError for a bad header. One column without a name is allowed: pandas writes its row numbers so."""
    named = [name for name in header if name]
    if not named:
        raise UserError(f"{path} has no header: its first line must name the columns.")
    if len(header) - len(named) > 1:
        raise UserError(f"{path} has {len(header) - len(named)} columns without a name in its header.")
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path} has two columns called {twice!r}: rename one.")


def _detect_format(path: Path) -> tuple[str, int]:
    """Delimiter and quoting: of those that parse a sample without an error, the pair with the most columns.

    Some tables, mostly .tsv, quote nothing: there a quotation mark is an ordinary character.
    """
    lines = list(islice(_Lines(path), SAMPLE_LINES))
    delimiters = ("\t",) if path.suffix.lower() == ".tsv" else DELIMITERS
    forms = [(delimiter, quoting) for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE) for delimiter in delimiters]
    columns = {form: _count_columns(lines, *form) for form in forms}
    header = lines[0] if lines else ""
    usual = max(delimiters, key=header.count), csv.QUOTE_MINIMAL
    best = max(forms, key=lambda form: columns[form])  # of equals the first
    return best if columns[best] > 1 else usual


def _count_columns(lines: list[str], delimiter: str, quoting: int) -> int:
    """The number of columns of these lines, read so; 0 if lines differ or cannot be parsed."""
    widths: set[int] = set()
    try:
        for row in csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True):  # type: ignore[arg-type]
            widths |= {len(row)} if row else set()
            if quoting == csv.QUOTE_NONE and any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in row):
                return 0  # some cells are quoted after all: then a fault is a fault
    except csv.Error:
        if len(lines) < SAMPLE_LINES:  # else it may be the sample's end, in the middle of a cell
            return 0
    return widths.pop() if len(widths) == 1 else 0


def _describe_delimiter(delimiter: str) -> str:
    return "a tab" if delimiter == "\t" else repr(delimiter)
