"""Parquet files as streams of rows."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tfew.errors import UserError
from tfew.tables.delimited import check_header
from tfew.tables.remote import is_url, open_url
from tfew.tables.rows import Row, RowStream, StreamedRow, StreamPosition

ROWS_AT_A_TIME = 1024
NESTED_AT_A_TIME = 16  # of tables with lists, whose texts Arrow copies
CHARACTERS_AT_A_TIME = 2**22
PACKED = (
    200  # repeated texts compress to almost nothing: a file that unpacks to over this many times its size is refused
)
ALWAYS_BYTES = 2**28  # unless it is at most this


class ParquetStream(RowStream):
    has_lines = False

    def __init__(self, path: str) -> None:
        import pyarrow
        import pyarrow.parquet

        self._path = path
        try:
            self._file = _opened(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._unreadable(error) from error
        names = self._file.schema_arrow.names
        try:
            check_header(path, names)
        except UserError:
            self.close()
            raise
        self.size = self._file.metadata.num_rows
        self._most = max(ALWAYS_BYTES, PACKED * _bytes_of(path))
        self.columns = [name for name in names if name]

    def close(self) -> None:
        self._file.close()

    def rows(self, start: StreamPosition) -> Iterator[StreamedRow]:
        import pyarrow

        try:
            self._check_pages()
            for number, row in enumerate(self._rows_from(start.row), start=start.row + 1):
                yield StreamedRow(StreamPosition(number, number, number), row)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    @property
    def most_rows_in_group(self) -> int:
        """The most rows of a row group, each of which is read from its beginning."""
        groups = range(self._file.num_row_groups)
        return max((self._file.metadata.row_group(group).num_rows for group in groups), default=0)

    @property
    def schema(self) -> Any:
        """The Arrow schema of the columns that have a name."""
        import pyarrow

        with pyarrow.parquet.ParquetFile(_source(self._path)) as file:
            return pyarrow.schema([field for field in file.schema_arrow if field.name])

    def most_characters(self, skipped: int) -> Iterator[int]:
        """For each row after `skipped`, an upper bound of its characters: bytes, which Arrow counts itself."""
        import pyarrow

        try:
            self._check_pages()
            for _, characters in self._batches_from(skipped):
                yield from characters
        except (pyarrow.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"{self._path} cannot be read as Parquet: {' '.join(str(error).split()).rstrip('.')}.")

    def _rows_from(self, skipped: int) -> Iterable[Row]:
        for rest, characters in self._batches_from(skipped):
            for part in _parts(rest, characters):
                rows: list[dict[str, Any]] = part.to_pylist()
                yield from ({name: value for name, value in row.items() if name} for row in rows)

    def _batches_from(self, skipped: int) -> Iterator[tuple[Any, list[int]]]:
        """Arrow's batches after `skipped` rows, and the characters of each row."""
        group = 0
        while group < self._file.num_row_groups and skipped >= self._file.metadata.row_group(group).num_rows:
            skipped -= self._file.metadata.row_group(group).num_rows
            group += 1
        unpacked = 0
        at_a_time = NESTED_AT_A_TIME if _is_nested(self._file.schema_arrow) else ROWS_AT_A_TIME
        for batch in self._file.iter_batches(at_a_time, row_groups=range(group, self._file.num_row_groups)):
            rest = batch.slice(skipped)
            characters = _characters(rest)
            unpacked += sum(characters)
            if unpacked > self._most:
                raise UserError(f"{self._path} is refused: it unpacks to more than {self._most:,} characters.")
            yield rest, characters
            skipped = max(0, skipped - len(batch))

    def _check_pages(self) -> None:
        """Raises UserError for pages with a compression ratio that no text has."""
        metadata = self._file.metadata
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                if column.total_uncompressed_size > self._most:
                    raise UserError(
                        f"{self._path} is refused: its column {column.path_in_schema!r} would unpack to"
                        f" {column.total_uncompressed_size:,} bytes."
                    )


def _opened(path: str) -> Any:
    """Opens the file with text columns as a dictionary and indices, as stored: each text is in memory once."""
    import pyarrow
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(_source(path)) as file:
        texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
    return pyarrow.parquet.ParquetFile(_source(path), read_dictionary=texts)


def _source(path: str) -> Any:
    return open_url(path)[0] if is_url(path) else path


def _bytes_of(path: str) -> int:
    if is_url(path):
        file, size = open_url(path)
        file.close()
        return size
    return Path(path).stat().st_size


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind))


def _is_nested(schema: Any) -> bool:
    import pyarrow.types as types

    return any(types.is_nested(field.type) for field in schema)


def _characters(batch: Any) -> list[int]:
    """The number of characters in the texts of each row."""
    import numpy as np
    import pyarrow
    import pyarrow.compute as compute

    sizes = np.zeros(len(batch), dtype=np.int64)
    for column in batch.columns:
        if pyarrow.types.is_dictionary(column.type) and _is_text(column.type.value_type):
            lengths = compute.binary_length(column.dictionary).take(column.indices)
            sizes += lengths.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    found: list[int] = sizes.tolist()
    return found


def _parts(batch: Any, characters: Sequence[int]) -> Iterator[Any]:
    """Parts with as many rows as fit CHARACTERS_AT_A_TIME, at least one."""
    start, seen = 0, 0
    for end, size in enumerate(characters):
        if end > start and seen + size > CHARACTERS_AT_A_TIME:
            yield batch.slice(start, end - start)
            start, seen = end, 0
        seen += size
    yield batch.slice(start)
