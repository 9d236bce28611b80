"""Finds the ends of rows without parsing the rows, to split a large file into pieces.

The positions are the same as when parsing, by the same rules, several times as fast: a line without a quotation mark is
a row, and only lines that may be something else are parsed.
"""

import csv
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from tfew.tables.byte_lines import MAX_LINE_BYTES, UNITS, raw_lines
from tfew.tables.delimited import TableStream
from tfew.tables.dialect import csv_options
from tfew.tables.json_lines import JsonStream
from tfew.tables.rows import RowStream, StreamPosition
from tfew.tables.text_lines import LineStream, TextStream, line_too_long

QUOTE = b'"'


class RowEnd(NamedTuple):
    """The position after a row, as `StreamPosition`; `most_characters`: an upper bound for its texts."""

    row: int
    line: int
    offset: int
    most_characters: int


def can_be_scanned(stream: RowStream) -> bool:
    """Whether `row_ends` supports this stream: a seekable one, whose rows are not reshaped."""
    if not isinstance(stream, LineStream) or stream.size is None or stream.encodings[-1] in UNITS:
        return False
    return isinstance(stream, JsonStream | TextStream) or (isinstance(stream, TableStream) and not stream.is_described)


def row_ends(stream: LineStream, start: StreamPosition) -> Iterator[RowEnd]:
    """The ends of the rows after `start`, of at least one row; raises UserError for an endless line.

    This reads the stream's file, so nothing else may read it.
    """
    start = start if start.offset else stream.place
    stream.source.file.seek(start.offset)
    lines = raw_lines(stream.source, stream.encodings[-1])
    if isinstance(stream, TableStream):
        return _of_table(stream, lines, start)
    return _of_lines(stream, lines, start)


def _of_lines(stream: LineStream, lines: Iterator[bytes], start: StreamPosition) -> Iterator[RowEnd]:
    row, number, offset = start.row, start.line, start.offset
    skips_empty, encoding = isinstance(stream, JsonStream), stream.encodings[-1]
    for raw in lines:
        number, offset = number + 1, offset + len(raw)
        if len(raw) > MAX_LINE_BYTES:
            raise line_too_long(stream.name, number)
        if skips_empty and not raw.startswith(b"{") and not _text(stream, raw, number, encoding).strip():
            continue
        row += 1
        yield RowEnd(row, number, offset, len(raw))


def _text(stream: LineStream, raw: bytes, number: int, encoding: str) -> str:
    return (raw.removeprefix(stream.bom) if number == 1 else raw).decode(encoding, errors="replace")


def _of_table(stream: TableStream, lines: Iterator[bytes], start: StreamPosition) -> Iterator[RowEnd]:
    row, number, offset = start.row, start.line, start.offset
    encoding, options = stream.encodings[-1], csv_options(stream.form)
    delimiter, quotes = stream.form.delimiter.encode(encoding), stream.form.quoting
    has_one_column = len(stream.header) == 1
    taken: list[bytes] = []  # lines of the row that is being parsed

    def taken_lines(first: bytes) -> Iterator[str]:
        for raw in chain([first], lines):
            taken.append(raw)
            if len(raw) > MAX_LINE_BYTES:
                raise line_too_long(stream.name, number + len(taken))
            yield raw.decode(encoding, errors="replace")

    for raw in lines:
        if delimiter in raw and not (quotes and QUOTE in raw) and len(raw) <= MAX_LINE_BYTES:
            is_row, size, count = True, len(raw), 1
        else:
            taken.clear()
            try:
                cells = next(csv.reader(taken_lines(raw), **options), [])
                is_row = len(cells) > 1 or bool(cells and (cells[0].strip() or has_one_column))
            except csv.Error:
                is_row = True  # a bad one
            size, count = sum(map(len, taken)), len(taken)
        number, offset = number + count, offset + size
        if is_row:
            row += 1
            yield RowEnd(row, number, offset, size)
