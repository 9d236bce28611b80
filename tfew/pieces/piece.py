"""A piece: consecutive rows of one file, which one worker labels into one part of the output.

A piece ends where a window of a single process ends (`tfew.prediction.bulk_predict`). So batches, and the numbers, are
the same as those of a single process, for any number of workers. The window ends of a large file are found in one fast
scan (`tfew.tables.row_ends`) while the first pieces are labelled; a file that is small compared to the others,
compressed, or of a kind that is not split is a single piece.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

from tfew.pieces.input_files import InputFile
from tfew.prediction.bulk_predict import WINDOW_CHARACTERS, windows
from tfew.tables.byte_lines import GZIP
from tfew.tables.parquet import ParquetStream
from tfew.tables.row_ends import can_be_scanned, row_ends
from tfew.tables.rows import RowStream, StreamPosition
from tfew.tables.text_lines import LineStream

WHOLE_BYTES = 2**20  # a file among several that is not larger is not split
MANY_FILES = 10_000  # this many files of equal size are enough pieces
GROUP_PIECES = 16  # at most per row group: each piece reads it from its beginning

Place = tuple[int, int, int]  # row, line, offset, as in StreamPosition


@dataclass(frozen=True)
class Piece:
    """`file`: its number; `rows`: None means to the end of the file; `size`: its share of the file's bytes."""

    file: int
    path: str
    size: int
    start: StreamPosition = field(default_factory=StreamPosition)
    rows: int | None = None

    @property
    def name(self) -> str:
        """A name by which pieces sort in the order of the rows."""
        return f"{self.file:06d}-{self.start.row:012d}"


def pieces_of(
    files: Sequence[InputFile], open_rows: Callable[[str], RowStream], window_rows: int, piece_rows: int
) -> Generator[Piece, None, None]:
    """The pieces of all files, in order; each has `piece_rows` rows or slightly more, since it ends with a window."""
    whole_bytes = max(WHOLE_BYTES, sum(file.size for file in files) // MANY_FILES) if len(files) > 1 else 0
    for number, file in enumerate(files):
        if file.size <= whole_bytes or file.path.lower().endswith(GZIP):
            yield Piece(number, file.path, file.size)
        else:
            yield from _cut(number, file, open_rows, window_rows, piece_rows)


def _cut(
    number: int, file: InputFile, open_rows: Callable[[str], RowStream], window_rows: int, piece_rows: int
) -> Iterator[Piece]:
    stream = open_rows(file.path)
    try:
        if isinstance(stream, ParquetStream):
            piece_rows = max(piece_rows, stream.most_rows_in_group // GROUP_PIECES)
        elif not (isinstance(stream, LineStream) and can_be_scanned(stream)):
            yield Piece(number, file.path, file.size)
            return
        start = StreamPosition()
        for end in _every(_window_ends(stream, open_rows, file.path, window_rows), piece_rows):
            share = (end.offset - start.offset) if stream.has_lines else _share(file, stream, end.row - start.row)
            yield Piece(number, file.path, share, start, end.row - start.row)
            start = end
    finally:
        stream.close()


def _share(file: InputFile, stream: RowStream, rows: int) -> int:
    return file.size * rows // max(1, stream.size or 0)


def _every(ends: Iterator[StreamPosition], piece_rows: int) -> Iterator[StreamPosition]:
    """Each window end that is at least `piece_rows` rows after the one before it here; and the last end."""
    before, last = 0, None
    for end in ends:
        last = end
        if end.row - before >= piece_rows:
            yield end
            before, last = end.row, None
    if last is not None:
        yield last


def _window_ends(
    stream: RowStream, open_rows: Callable[[str], RowStream], path: str, window_rows: int
) -> Iterator[StreamPosition]:
    """The ends of windows. Only windows that may exceed the limit of characters are read in full."""
    start = StreamPosition()
    while True:
        characters, count, end, is_long = 0, 0, None, False
        for place, most_characters in _row_ends(stream, start):
            characters, count, end = characters + most_characters, count + 1, place
            if characters >= WINDOW_CHARACTERS:
                is_long = True
                break
            if count == window_rows:
                start = StreamPosition(*place)
                yield start
                characters, count, end = 0, 0, None
        if not is_long:
            if end is not None:
                yield StreamPosition(*end)
            return
        start = _read_window(open_rows, path, start, window_rows)
        yield start


def _row_ends(stream: RowStream, start: StreamPosition) -> Iterator[tuple[Place, int]]:
    if isinstance(stream, ParquetStream):
        for row, most_characters in enumerate(stream.most_characters(start.row), start=start.row + 1):
            yield (row, row, row), most_characters
    elif isinstance(stream, LineStream):
        for end in row_ends(stream, start):
            yield end[:3], end.most_characters


def _read_window(
    open_rows: Callable[[str], RowStream], path: str, start: StreamPosition, window_rows: int
) -> StreamPosition:
    """The end of the window that starts here, found by reading it."""
    stream = open_rows(path)
    try:
        return next(windows(stream.rows(start), window_rows, WINDOW_CHARACTERS))[-1].place
    finally:
        stream.close()
