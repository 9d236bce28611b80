"""Parquet files as streams of rows."""

from collections.abc import Iterable, Iterator
from typing import Any

from tfew.errors import UserError
from tfew.tables.delimited import check_header
from tfew.tables.rows import Row, RowStream, StreamedRow, StreamPosition

ROWS_AT_A_TIME = 1024


class ParquetStream(RowStream):
    has_lines = False

    def __init__(self, path: str) -> None:
        import pyarrow
        import pyarrow.parquet

        self._path = path
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._unreadable(error) from error
        names = self._file.schema_arrow.names
        try:
            check_header(path, names)
        except UserError:
            self.close()
            raise
        self.size = self._file.metadata.num_rows
        self.columns = [name for name in names if name]

    def close(self) -> None:
        self._file.close()

    def rows(self, start: StreamPosition) -> Iterator[StreamedRow]:
        import pyarrow

        try:
            for number, row in enumerate(self._rows_from(start.row), start=start.row + 1):
                yield StreamedRow(StreamPosition(number, number, number), row)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"{self._path} cannot be read as Parquet: {' '.join(str(error).split()).rstrip('.')}.")

    def _rows_from(self, skipped: int) -> Iterable[Row]:
        group = 0
        while group < self._file.num_row_groups and skipped >= self._file.metadata.row_group(group).num_rows:
            skipped -= self._file.metadata.row_group(group).num_rows
            group += 1
        for batch in self._file.iter_batches(ROWS_AT_A_TIME, row_groups=range(group, self._file.num_row_groups)):
            rows: list[dict[str, Any]] = batch.slice(skipped).to_pylist()
            yield from ({name: value for name, value in row.items() if name} for row in rows)
            skipped = max(0, skipped - len(batch))
