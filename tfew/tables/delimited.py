"""CSV, TSV and similar: a table with a header line, whose dialect is detected unless it is declared."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfew.errors import UserError
from tfew.tables.byte_lines import UTF_8, ByteSource
from tfew.tables.dialect import (
    QUOTE,
    SAMPLE_LINES,
    SEPARATOR_LINE,
    are_joined_by_mistake,
    csv_options,
    describe_delimiter,
    detect_dialect,
    detect_quoting,
)
from tfew.tables.formats import Format, apply_format
from tfew.tables.rows import Row, StreamedRow
from tfew.tables.text_lines import LineStream

MAX_CELL_CHARACTERS = 10_000_000
USUAL = {"csv": ",", "tsv": "\t"}


def check_header(name: str, header: Sequence[str]) -> None:
    """Raises UserError for a bad header. One column without a name is allowed: pandas writes its index like that."""
    named = [column for column in header if column]
    if not named:
        raise UserError(f"{name} has no header: its first line must name the columns.")
    if len(header) - len(named) > 1:
        raise UserError(f"{name} has {len(header) - len(named)} columns without a name in its header.")
    twice = next((column for column in named if named.count(column) > 1), None)
    if twice is not None:
        raise UserError(f"{name} has two columns called {twice!r}: rename one.")


def unnamed_note(header: Sequence[str]) -> list[str]:
    """A note about a column without a name, which rows do not have: in prediction it is not in the output either."""
    places = [place for place, column in enumerate(header, start=1) if not column]
    return [f"column {place}, which has no name in the header, is left out" for place in places]


class TableStream(LineStream):
    """`form`: as a data set's YAML describes it; None: a table of unknown dialect."""

    columns: Sequence[str]

    def __init__(self, source: ByteSource, kind: str, form: Format | None) -> None:
        if form is not None and form.pattern is not None:
            raise UserError(
                f"{source.name}: files of this format (dataset.formats) are not tables; use .csv or .jsonl."
            )
        csv.field_size_limit(MAX_CELL_CHARACTERS)
        super().__init__(source, kind, None if form is None else form.encoding)
        self.is_described, self._empty_lines, self._joined = form is not None, 0, ""
        self.form = self._detected() if form is None else form
        self.header = self._read_header()
        check_header(self.name, self.header)
        self.columns = [column for column in self.header if column]

    def _detected(self) -> Format:
        head = self._head.removeprefix(self.bom).decode(self.encodings[-1], errors="replace")
        lines = io.StringIO(head, newline="").readlines()
        if not self._head_is_whole and len(lines) > 1 and not lines[-1].endswith("\n"):
            del lines[-1]  # it may be incomplete
        sample, rest = lines[:SAMPLE_LINES], lines[SAMPLE_LINES:]
        form = detect_dialect(sample, USUAL[self.kind], self._head_is_whole and not rest)
        if not any(QUOTE in line for line in sample) and any(QUOTE in line for line in rest):
            form = detect_quoting(lines, form, self._head_is_whole)
        return form

    @property
    def notes(self) -> Sequence[str]:
        """`RowStream.notes`; one is of rows that were read."""
        if self.is_described:
            return [*super().notes, *unnamed_note(self.header)]
        found = [*super().notes, *unnamed_note(self.header)]
        if self.form.delimiter != USUAL[self.kind]:
            found.append(f"separated by {describe_delimiter(self.form.delimiter)}")
        if not self.form.quoting:
            found.append("quotation marks read as plain characters")
        if self.form.skip_blanks:
            found.append("blanks after a separator removed")
        if self._empty_lines:
            found.append(f"{self._empty_lines} empty line{'s' * (self._empty_lines > 1)} above the header")
        if self._joined:
            found.append(self._joined)
        return found

    @property
    def formats(self) -> Mapping[str, Mapping[str, Any]]:
        """The dialect in the form of `dataset.formats`; empty if it is the usual one."""
        form, encoding = self.form, self.encodings[0]
        if self.is_described or (form, encoding) == (Format(delimiter=USUAL[self.kind]), UTF_8):
            return {}
        found: dict[str, Any] = {"delimiter": form.delimiter, "quoting": form.quoting}
        found |= {"skip_blanks": True} if form.skip_blanks else {}
        return {self.kind: found | ({"encoding": [encoding]} if encoding != UTF_8 else {})}

    def _read_header(self) -> list[str]:
        """The first line that is not empty; Excel's `sep=;` is not one."""
        try:
            for cells in self._cells():
                if any(cell.strip() for cell in cells) or len(cells) > 1:
                    if not SEPARATOR_LINE.fullmatch("".join(self._row_lines)):
                        break
                else:
                    self._empty_lines += 1
                self._start_row()
            else:
                raise UserError(f"{self.name} is empty: a table begins with a line that names its columns.")
        except csv.Error as error:
            line = self._place.line
            raise UserError(f"{self.name}, line {line}: its header line cannot be read: {error}.") from error
        if self._decode_error:
            raise UserError(f"{self.name}: its header line {self._decode_error}.")
        return [cell.strip() for cell in cells]

    def _cells(self) -> Iterator[list[str]]:
        return csv.reader(self._lines(), **csv_options(self.form))

    def _read(self) -> Iterator[StreamedRow]:
        cells = self._cells()
        while True:
            try:
                row = next(cells)
            except StopIteration:
                return
            except csv.Error as error:  # the reader continues with the next line
                yield self._row(None, f"cannot be read: {error}")
                continue
            if len(row) > 1 or (row and (row[0].strip() or len(self.header) == 1)):
                if not self._joined and are_joined_by_mistake(self._row_lines, self.form, len(self.header)):
                    self._joined = self._describe_joined()
                yield self._row(*self._to_row(row))
            else:
                self._start_row()

    def _describe_joined(self) -> str:
        row, last, lines = self._place.row + 1, self._place.line, len(self._row_lines)
        return (
            f"row {row} is lines {last - lines + 1} to {last}, joined by quotation marks, though each has"
            f" {len(self.header)} cells: if they are rows, a cell that begins with a quotation mark must be quoted, and"
            " its own marks doubled"
        )

    def _to_row(self, cells: Sequence[str]) -> tuple[Row | None, str | None]:
        if len(cells) != len(self.header):
            return None, (
                f"has {len(cells)} cell{'s' * (len(cells) != 1)}, the header has {len(self.header)}: a cell that holds"
                f" {describe_delimiter(self.form.delimiter)}, a line break or a quotation mark must be quoted"
            )
        row = {column: cell for column, cell in zip(self.header, cells, strict=True) if column}
        try:
            return apply_format(row, self.form, Path(self.name)), None
        except UserError as error:
            return None, str(error).rstrip(".")
