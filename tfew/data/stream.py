"""Streams rows of a file or of standard input: memory stays constant, and reading can resume at any row.

A row that cannot be read is yielded with the reason, and reading continues after it. Only a file that cannot be read at
all raises UserError.
"""

import csv
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tfew.data.formats import FORMATS, Format, Row, apply_format
from tfew.errors import UserError, unknown_value_error
from tfew.files.untrusted import parse_json

STDIO = "-"  # standard input, standard output
SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "text", ".parquet": "parquet"}
FILE_FORMATS = ("csv", "tsv", "jsonl", "text", "parquet")
MAX_LINE_BYTES = 2**24  # of rows to label: a longer line means a file of another kind
PARQUET_ROWS = 1024  # read at a time
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class StreamPosition:
    """Rows, lines and bytes read so far; for Parquet, `line` and `offset` count rows, too."""

    row: int = 0
    line: int = 0
    offset: int = 0


@dataclass(frozen=True)
class StreamedRow:
    """A row, and the position after it; if it cannot be read: `row` None, `problem` the reason, `text` its lines."""

    place: StreamPosition
    row: Row | None
    problem: str | None = None
    text: str = ""


class RowStream(ABC):
    """`StreamPosition.offset` runs up to `size`; None where that is not known. `columns`: None where each row says."""

    size: int | None = None
    columns: Sequence[str] | None = None

    @abstractmethod
    def rows(self, start: StreamPosition) -> Iterator[StreamedRow]:
        """The rows after `start`; standard input yields all its rows, whatever `start` is."""

    @abstractmethod
    def close(self) -> None: ...


def open_stream(
    path: str, kind: str | None, text_column: str | None, formats: Mapping[str, Mapping[str, Any]] = FORMATS
) -> RowStream:
    """The rows of this file, or of standard input ("-").

    `kind`: one of FILE_FORMATS; None: by the file's ending, JSON lines on standard input. `text_column`: the column
    that plain lines of text go to, if any. `formats`: as in `tfew.data.formats`.
    """
    kind = kind or ("jsonl" if path == STDIO else SUFFIXES.get(Path(path).suffix.lower()))
    if kind is None:
        raise unknown_value_error("file ending", Path(path).suffix, SUFFIXES, f"of {path}; format= says what it is")
    if kind not in FILE_FORMATS:
        raise unknown_value_error("format", kind, FILE_FORMATS, "format=")
    if path != STDIO and not Path(path).is_file():
        raise UserError(f"input={path} {'is a folder' if Path(path).is_dir() else 'does not exist'}.")
    if kind == "parquet":
        return ParquetStream(path)
    if kind == "jsonl":
        return JsonStream(path)
    if kind == "text":
        return TextStream(path, text_column)
    described = {**FORMATS, **formats}[kind]
    return TableStream(path, Format.from_config(described, f"dataset.formats.{kind}"))


class LineStream(RowStream):
    """Rows that consist of lines of text."""

    encodings: Sequence[str] = ("utf-8",)

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = "standard input" if path == STDIO else path
        self.size = None if path == STDIO else Path(path).stat().st_size
        self._file: BinaryIO = sys.stdin.buffer if path == STDIO else open(path, "rb")  # noqa: SIM115 (see close)
        self._place = StreamPosition()
        self._row_lines: list[str] = []  # lines of the row that is being read
        self._decode_error = ""  # why one of them cannot be decoded

    def rows(self, start: StreamPosition) -> Iterator[StreamedRow]:
        if start.offset:
            self._file.seek(start.offset)
            self._place = start
        self._start_row()
        try:
            yield from self._read()
        except OSError as error:
            raise UserError(f"{self.name} cannot be read: {error.strerror or error}.") from error

    def close(self) -> None:
        if self.path != STDIO:
            self._file.close()

    @abstractmethod
    def _read(self) -> Iterator[StreamedRow]: ...

    def _lines(self) -> Iterator[str]:
        while raw := self._file.readline(MAX_LINE_BYTES + 1):
            self._place = StreamPosition(self._place.row, self._place.line + 1, self._place.offset + len(raw))
            if len(raw) > MAX_LINE_BYTES:
                raise UserError(
                    f"{self.name}, line {self._place.line} is longer than {MAX_LINE_BYTES:,} bytes: is it of the format"
                    " that format= or its ending says?"
                )
            line = self._decode(raw.removeprefix(BOM) if self._place.line == 1 else raw)
            self._row_lines.append(line)
            yield line

    def _decode(self, raw: bytes) -> str:
        for encoding in self.encodings:
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError as error:
                reason = f"is not {self.encodings[-1]} text (byte {raw[error.start]:#04x})"
        self._decode_error = reason
        return raw.decode(self.encodings[-1], errors="replace")

    def _start_row(self) -> None:
        """Discards the lines of the previous row."""
        self._row_lines, self._decode_error = [], ""

    def _row(self, row: Row | None, problem: str | None = None) -> StreamedRow:
        """Makes a row of the lines read since `_start_row`."""
        self._place = StreamPosition(self._place.row + 1, self._place.line, self._place.offset)
        problem, text = self._decode_error or problem, "".join(self._row_lines).rstrip("\r\n")
        self._start_row()
        return StreamedRow(self._place, None if problem else row, problem, text if problem else "")


class JsonStream(LineStream):
    """JSON lines; empty lines are skipped."""

    def _read(self) -> Iterator[StreamedRow]:
        for line in self._lines():
            if not line.strip():
                self._start_row()
                continue
            yield self._row(*_from_json(line))


def _from_json(line: str) -> tuple[Row | None, str | None]:
    try:
        row = parse_json(line)
    except json.JSONDecodeError as error:
        return None, f"is not valid JSON: {error.msg} at column {error.colno}"
    except ValueError as error:  # a number of too many digits, too deep a list
        return None, f"is not valid JSON: {error}"
    return row, None if isinstance(row, dict) else f"is {type(row).__name__}, not a JSON object"


class TextStream(LineStream):
    """Every line, also an empty one, is a row of one column."""

    def __init__(self, path: str, column: str | None) -> None:
        if column is None:
            raise UserError(
                f"input={path} is plain text, and the data set has not one column but several (or does not name it):"
                " use a .csv or .jsonl file that names them."
            )
        super().__init__(path)
        self.columns = (column,)
        self._column = column

    def _read(self) -> Iterator[StreamedRow]:
        for line in self._lines():
            yield self._row({self._column: line.rstrip("\r\n")})


class TableStream(LineStream):
    """A table with a header line."""

    columns: Sequence[str]

    def __init__(self, path: str, form: Format) -> None:
        if form.pattern is not None:
            raise UserError(f"input={path}: files of this format (dataset.formats) are not tables; use .csv or .jsonl.")
        super().__init__(path)
        self._form, self.encodings = form, form.encoding
        try:
            self.columns = self._header()
        except UserError:
            self.close()
            raise

    def _header(self) -> list[str]:
        try:
            header = next(self._cells(), None)
        except csv.Error as error:
            raise UserError(f"{self.name}: its header line cannot be read: {error}.") from error
        if not header:
            raise UserError(f"{self.name} is empty: a table begins with a line that names its columns.")
        if self._decode_error:
            raise UserError(f"{self.name}: its header line {self._decode_error}.")
        if len(set(header)) < len(header):
            twice = sorted({name for name in header if header.count(name) > 1})
            raise UserError(f"{self.name} has two columns named {', '.join(map(repr, twice))}.")
        return header

    def _cells(self) -> Iterator[list[str]]:
        return csv.reader(
            self._lines(),
            delimiter=self._form.delimiter,
            quoting=csv.QUOTE_MINIMAL if self._form.quoting else csv.QUOTE_NONE,
            strict=True,
        )

    def _read(self) -> Iterator[StreamedRow]:
        cells = self._cells()
        while True:
            try:
                row = next(cells)
            except StopIteration:
                return
            except csv.Error as error:  # the reader goes on with the next line
                yield self._row(None, f"cannot be read: {error}")
                continue
            if row:
                yield self._row(*self._to_row(row))
            else:
                self._start_row()

    def _to_row(self, cells: Sequence[str]) -> tuple[Row | None, str | None]:
        if len(cells) != len(self.columns):
            return None, f"has {len(cells)} columns instead of the header's {len(self.columns)}"
        try:
            return apply_format(dict(zip(self.columns, cells, strict=True)), self._form, Path(self.path)), None
        except UserError as error:
            return None, str(error)


class ParquetStream(RowStream):
    def __init__(self, path: str) -> None:
        import pyarrow
        import pyarrow.parquet

        if path == STDIO:
            raise UserError("Parquet cannot be read from standard input: name a file with input=.")
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"input={path} cannot be read as Parquet: {error}.") from error
        self.size = self._file.metadata.num_rows
        self.columns = tuple(self._file.schema_arrow.names)

    def close(self) -> None:
        self._file.close()

    def rows(self, start: StreamPosition) -> Iterator[StreamedRow]:
        for number, row in enumerate(self._rows_from(start.row), start=start.row + 1):
            yield StreamedRow(StreamPosition(number, number, number), row)

    def _rows_from(self, skipped: int) -> Iterable[Row]:
        group = 0
        while group < self._file.num_row_groups and skipped >= self._file.metadata.row_group(group).num_rows:
            skipped -= self._file.metadata.row_group(group).num_rows
            group += 1
        for batch in self._file.iter_batches(PARQUET_ROWS, row_groups=range(group, self._file.num_row_groups)):
            yield from batch.slice(skipped).to_pylist()
            skipped = max(0, skipped - len(batch))
