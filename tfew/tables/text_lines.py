"""Streams of text files: their common base class, and plain lines of text."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfew.errors import UserError
from tfew.tables.byte_lines import (
    MAX_LINE_BYTES,
    UTF_8,
    ByteSource,
    describe_encoding,
    detect_encoding,
    raw_lines,
)
from tfew.tables.rows import Row, RowStream, StreamedRow, StreamPosition


def line_too_long(name: str, line: int) -> UserError:
    return UserError(
        f"{name}, line {line} is longer than {MAX_LINE_BYTES:,} bytes: is it of the format that format= or its ending"
        " says?"
    )


class LineStream(RowStream):
    """`kind`: as in `dataset.formats`; `encodings`: tried in turn for each line; None: detected."""

    def __init__(self, source: ByteSource, kind: str, encodings: Sequence[str] | None = None) -> None:
        self.source, self.kind, self.name, self.size = source, kind, source.name, source.size
        self._head, self._head_is_whole = source.head()
        found, self.bom = detect_encoding(self._head, self._head_is_whole)
        self.encodings: Sequence[str] = encodings if encodings and not self.bom else (found,)
        self.encoding_is_found = encodings is None
        self._place = StreamPosition()
        self._row_lines: list[str] = []  # lines of the row that is being read
        self._decode_error = ""  # why one of them cannot be decoded

    @property
    def place(self) -> StreamPosition:
        """The position after what was read so far; before any row, the start of the first."""
        return self._place

    @property
    def _is_unusual(self) -> bool:
        return self.encoding_is_found and self.encodings[0] != UTF_8

    @property
    def notes(self) -> Sequence[str]:
        return [f"read as {describe_encoding(self.encodings[0])}"] if self._is_unusual else []

    @property
    def formats(self) -> Mapping[str, Mapping[str, Any]]:
        return {self.kind: {"encoding": list(self.encodings)}} if self._is_unusual else {}

    def rows(self, start: StreamPosition) -> Iterator[StreamedRow]:
        if start.offset:
            self.source.file.seek(start.offset)
            self._place = start
        self._start_row()
        yield from self._read()

    def close(self) -> None:
        self.source.close()

    @abstractmethod
    def _read(self) -> Iterator[StreamedRow]: ...

    def _lines(self) -> Iterator[str]:
        for raw in raw_lines(self.source, self.encodings[-1]):
            self._place = StreamPosition(self._place.row, self._place.line + 1, self._place.offset + len(raw))
            if len(raw) > MAX_LINE_BYTES:
                raise line_too_long(self.name, self._place.line)
            line = self._decode(raw.removeprefix(self.bom) if self._place.line == 1 else raw)
            if "\0" in line:
                self._decode_error = self._decode_error or "holds a NUL byte: is it a text file?"
            self._row_lines.append(line)
            yield line

    def _decode(self, raw: bytes) -> str:
        for encoding in self.encodings:
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError as error:
                reason = (
                    f"is not {describe_encoding(self.encodings[-1])} text (byte {raw[error.start]:#04x} at position"
                    f" {error.start + 1}): save the file as UTF-8"
                )
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


class TextStream(LineStream):
    """Every line, even an empty one, is a row of one column."""

    def __init__(self, source: ByteSource, column: str | None) -> None:
        if column is None:
            raise UserError(
                f"{source.name} is plain text, but the data set has several columns (or does not name its one):"
                " use a .csv or .jsonl file that names them."
            )
        super().__init__(source, "text")
        self.columns = (column,)
        self._column = column

    def _read(self) -> Iterator[StreamedRow]:
        for line in self._lines():
            yield self._row({self._column: line.rstrip("\r\n")})
