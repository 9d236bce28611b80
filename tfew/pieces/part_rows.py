"""Writes a part of the output to a file: lines of text, or Parquet."""

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from tfew.errors import UserError
from tfew.prediction.result_rows import (
    BOUNDS,
    LABEL,
    OF_LABEL,
    PROBABILITIES,
    PROBABILITY,
    SET,
    SET_SIZE,
    ResultRows,
    cell,
    output_columns,
)
from tfew.prediction.task_predictor import Labelled


class ArrowRows(ResultRows):
    """Rows as Arrow columns; `text` returns an empty text, and `take` the rows.

    Columns of the input keep their types if it is Parquet (`schema`); of other inputs they are text, as in a CSV file,
    so that all parts have the same types.
    """

    def __init__(
        self, columns: Sequence[str] | None, labels: Sequence[str] | None, schema: Any | None, sets: bool = False,
        bounds: bool = False,
    ) -> None:  # fmt: skip
        super().__init__("csv", columns, labels, sets=sets, bounds=bounds)
        self._input_schema = schema
        self._rows: list[list[Any]] = []

    def text(
        self, rows: Sequence[Mapping[str, Any]], labelled: Sequence[Labelled], first: bool, numbers: Sequence[int] = ()
    ) -> str:
        if self.columns is None:
            self.columns = list(rows[0]) if rows else None
        columns = self.columns or []
        for row, of in zip(rows, labelled, strict=True):
            self.left_out |= row.keys() - columns
            self._rows.append([*(self._own_type(row.get(column)) for column in columns), *self._own_plain(of)])
        return ""

    def take(self) -> Any:
        """A pyarrow.Table of the rows since the last time; raises UserError if a cell is of another type."""
        import pyarrow

        rows, self._rows = self._rows, []
        schema = self._schema()
        try:
            arrays = [pyarrow.array([row[place] for row in rows], kind.type) for place, kind in enumerate(schema)]
            return pyarrow.table(arrays, schema=schema)
        except pyarrow.ArrowException as error:
            raise UserError(f"parts=parquet cannot hold these rows ({error}): set parts=jsonl.") from error

    def _own_plain(self, of: Labelled) -> list[Any]:
        return [value if value is None else cell(value) for value in self._own(of, 0).values()]

    def _own_type(self, value: Any) -> Any:
        if self._input_schema is not None or value is None or isinstance(value, str):
            return value
        return str(cell(value))

    def _schema(self) -> Any:
        import pyarrow

        text, types = pyarrow.string(), {}
        if self._input_schema is not None:
            types = {field.name: field.type for field in self._input_schema}
        kinds = {LABEL: text, PROBABILITY: pyarrow.float64(), PROBABILITIES: text, SET: text}
        kinds |= {SET_SIZE: pyarrow.int64(), BOUNDS: pyarrow.int64()}
        kinds |= {OF_LABEL + label: pyarrow.float64() for label in self.labels or ()}
        own, columns = {name: kinds[name] for name in self._own_columns()}, self.columns or ()
        return pyarrow.schema(
            [
                (name, types.get(column, text))
                for column, name in zip(columns, output_columns(columns, own), strict=True)
            ]
            + [(name, own[name]) for name in own]
        )


class PartWriter:
    """Writes what `results` makes of the rows into an open file."""

    def __init__(self, results: ResultRows, file: BinaryIO) -> None:
        self._results, self._file = results, file
        self._parquet: Any = None

    def write(self, text: str) -> None:
        """`text`: what `results` has just returned."""
        if not isinstance(self._results, ArrowRows):
            self._file.write(text.encode())
            return
        import pyarrow.parquet

        table = self._results.take()
        if table.num_rows:
            self._parquet = self._parquet or pyarrow.parquet.ParquetWriter(self._file, table.schema)
            self._parquet.write_table(table)

    def close(self) -> None:
        if self._parquet is not None:
            self._parquet.close()
