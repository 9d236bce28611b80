"""Rows in memory as named columns of plain Python values, whatever library holds them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tfew.data.cells import plain, shown
from tfew.data.label_column import check_filled, check_texts
from tfew.errors import UserError, shorten_list, unknown_value_error
from tfew.tables.table_reader import Table

WHERE = "The data (rows counted from 1)"  # in messages


@dataclass(frozen=True)
class Frame:
    """Columns of equal length. `is_table`: whether the caller named them.

    classes: by column, the names of labels that are stored as numbers (`datasets.ClassLabel`).
    """

    columns: dict[str, list[Any]]
    is_table: bool = True
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def only(self, names: Sequence[str]) -> "Frame":
        """The columns with these names; raises UserError for an unknown one."""
        for name in names:
            if name not in self.columns:
                raise unknown_value_error("column", name, self.columns, "of the data")
        return replace(self, columns={name: self.columns[name] for name in names})

    def table(self) -> Table:
        names = list(self.columns)
        rows = [dict(zip(names, cells, strict=True)) for cells in zip(*self.columns.values(), strict=True)]
        return Table(WHERE, names, rows)


def as_frame(data: Any, default: str = "text") -> Frame:
    """Lists of texts, rows or dictionaries; arrays; pandas; `datasets`; anything that exchanges data frames or Arrow.

    `default`: the name for an unnamed column. Raises UserError for anything else, and for no rows.
    """
    frame = _frame(data, default)
    lengths = {name: len(cells) for name, cells in frame.columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"The columns of the data are of different lengths: {lengths}.")
    if not len(frame):
        raise UserError("The data hold no rows: at least one is needed.")
    return replace(frame, columns={name: list(map(plain, cells)) for name, cells in frame.columns.items()})


def as_texts(frame: Frame) -> Frame:
    """The cells as prompts show them; raises UserError for rows without a text, and for cells that are not texts.

    A whole number is shown without a point: pandas makes floats of a column in which one cell is missing.
    """
    table = frame.table()
    check_filled(table, table.columns)
    check_texts(table, table.columns)
    return replace(frame, columns={name: list(map(_as_json, cells)) for name, cells in frame.columns.items()})


def check_has_texts(frame: Frame) -> None:
    """Raises UserError for a table of other values only."""
    if not any(isinstance(cell, str) for cells in frame.columns.values() for cell in cells):
        first = shown(next(iter(frame.columns.values()))[0])
        raise UserError(f"The data hold no text, only values such as {first}: this classifier reads texts.")


def _frame(data: Any, default: str) -> Frame:
    if isinstance(data, Frame):
        return data
    if isinstance(data, str | bytes):
        raise UserError(f"A list of texts is needed, but {shown(data)} is a single one: pass [{shown(data)}].")
    if isinstance(data, set | frozenset):
        raise UserError("A set has no order, so labels cannot be matched to its texts: pass a list.")
    if hasattr(data, "column_names") and hasattr(data, "features"):
        return _of_dataset(data)
    if hasattr(data, "iloc"):
        return _of_pandas(data, default)
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__dataframe__"):
        return _of_arrow(data, default)
    if isinstance(data, np.ndarray):
        return _of_array(data, default)
    if isinstance(data, Mapping):
        return _of_mapping(data)
    if not isinstance(data, Iterable):
        raise UserError(f"A list of texts or a data frame is needed, but {shown(data)} is neither.")
    return _of_rows(list(data), default)


def _of_rows(rows: list[Any], default: str) -> Frame:
    if rows and all(isinstance(row, Mapping) for row in rows):
        names = dict.fromkeys(name for row in rows for name in row)
        return Frame({str(name): [row.get(name) for row in rows] for name in names})
    if rows and all(isinstance(row, list | tuple | np.ndarray) for row in rows):
        if len(set(map(len, rows))) > 1:
            raise UserError(f"Rows of the data have different numbers of texts: {len(rows[0])} in the first of them.")
        return _numbered(list(map(list, zip(*rows, strict=True))), default)
    return Frame({default: rows}, is_table=False)


def _of_array(array: np.ndarray, default: str) -> Frame:
    if array.ndim > 2 or not array.ndim:
        raise UserError(f"An array of texts has one or two dimensions, but this one has {array.ndim}.")
    return _numbered([list(cells) for cells in np.atleast_2d(array.T)], default)


def _numbered(columns: list[list[Any]], default: str) -> Frame:
    """Names for unnamed columns: `text`, or text_1, text_2 and so on."""
    names = [default] if len(columns) == 1 else [f"{default}_{place}" for place in range(1, len(columns) + 1)]
    return Frame(dict(zip(names, columns, strict=True)), is_table=False)


def _of_mapping(data: Mapping[Any, Any]) -> Frame:
    if any(hasattr(part, "column_names") for part in data.values()):
        raise UserError(f"The data have several parts ({shorten_list(map(str, data))}): give one of them.")
    for name, cells in data.items():
        if isinstance(cells, str | bytes) or not isinstance(cells, Iterable):
            raise UserError(f"Column {name!r} of the data is {shown(cells)}, but must be a list with one cell per row.")
    return Frame({str(name): list(cells) for name, cells in data.items()})


def _of_pandas(data: Any, default: str) -> Frame:
    if not hasattr(data, "columns"):
        return Frame({default if data.name is None else str(data.name): data.tolist()}, is_table=False)
    names = [str(name) for name in data.columns]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"The data have several columns of the same name: {shorten_list(twice)}.")
    return Frame({name: data.iloc[:, place].tolist() for place, name in enumerate(names)})


def _of_dataset(data: Any) -> Frame:
    if not hasattr(data, "__len__"):
        raise UserError("The data are a stream, but training needs all rows: use load_dataset(streaming=False).")
    classes = {name: list(kind.names) for name, kind in data.features.items() if hasattr(kind, "int2str")}
    return Frame({name: list(data[name]) for name in data.column_names}, classes=classes)


def _of_arrow(data: Any, default: str) -> Frame:
    import pyarrow
    from pyarrow.interchange import from_dataframe

    try:
        if not hasattr(data, "__arrow_c_stream__"):
            table = from_dataframe(data)
        elif isinstance(data, pyarrow.ChunkedArray) or not hasattr(data, "columns"):
            return Frame({default: pyarrow.chunked_array(data).to_pylist()}, is_table=False)
        else:
            table = pyarrow.table(data)
    except (pyarrow.ArrowException, TypeError) as error:
        raise UserError(f"The data ({type(data).__name__}) cannot be read as Arrow: {error}.") from error
    return Frame({name: table[name].to_pylist() for name in table.column_names})


def _as_json(value: Any) -> Any:
    """Dates and the like as texts, whole floats as whole numbers; other values that JSON can write unchanged."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    is_plain = (
        value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
    )
    return value if is_plain else str(value)
