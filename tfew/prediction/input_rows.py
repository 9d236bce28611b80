"""How every caller reads files of new rows for a predictor's tasks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfew.data.dataset import missing_columns_error
from tfew.prediction.predictor import Predictor
from tfew.tables.rows import RowStream
from tfew.tables.stream import open_stream


@dataclass(frozen=True)
class InputForm:
    """`kind`: as `format=` has it; `text_column`, `formats`: see `open_stream`."""

    kind: str | None
    text_column: str | None
    formats: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, predictor: Predictor, kind: str | None) -> "InputForm":
        tasks = list(predictor.tasks.values())
        task = tasks[0] if len(tasks) == 1 else None
        formats = {} if task is None or task.spec.table is not None else task.spec.formats  # tables: detected for each
        return cls(kind, task.text_column if task else None, dict(formats))

    def open(self, path: str) -> RowStream:
        return open_stream(path, self.kind, self.text_column, self.formats)


def check_columns(predictor: Predictor, stream: RowStream, name: str, task_column: str | None) -> None:
    """Raises UserError if a table lacks columns that the tasks need; `name` of the input, in messages."""
    if stream.columns is None:  # JSON lines: checked row by row
        return
    if task_column is None:
        (task,) = predictor.tasks.values()
        task.check_columns(stream.columns, name)
    elif task_column not in stream.columns:
        raise missing_columns_error(name, [task_column], stream.columns, "task_column=NAME")
