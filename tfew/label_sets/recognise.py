"""Which tables have several labels a row, and which labels these are.

Recognises labels joined by a separator ("x;y"), lists, and a yes/no column for each label. The finding is reported,
with the setting that overrides it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tfew.data.cells import cell_text, is_missing, not_text, shown
from tfew.data.infer_columns import LABEL_NAMES, MAX_LABEL_CHARACTERS, infer_label_column
from tfew.data.label_column import find_separator, indicator_columns, rows_named
from tfew.data.labels import SEPARATORS, label_parts, listed_labels, match_label, says_yes
from tfew.errors import UserError, shorten_list, unknown_value_error
from tfew.tables.table_reader import Table

ONE_EACH = "multi_label=false reads each cell as one label"


@dataclass(frozen=True)
class LabelSets:
    """The labels of each row. They are in one column, joined by `separator` if it is text; or with `of_each` the
    columns are the labels, and their cells yes or no."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    separator: str = SEPARATORS[0]
    of_each: bool = False
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class SetOptions:
    """The user's settings: label and text columns (None: inferred), all labels, whether a row may have several (None:
    inferred), and the separator between them."""

    label: Sequence[str] | None = None
    text: Sequence[str] | None = None
    labels: Sequence[Any] | None = None
    several: bool | None = None
    separator: str | None = None

    def __post_init__(self) -> None:
        if self.separator is not None and (not self.separator or self.several is False):
            what = "is empty" if not self.separator else "needs several labels per row, but multi_label is false"
            raise UserError(f"separator={self.separator!r} {what}: set one such as ';', or separator=null.")


def several(value: Literal["auto"] | bool) -> bool | None:
    """`multi_label=` in the form of `SetOptions.several`."""
    return None if value == "auto" else value


def recognise(table: Table, options: SetOptions) -> LabelSets | None:
    """The rows' labels; None if each row has one. Raises UserError for cells that fit neither."""
    columns = options.label
    for column in columns or ():
        if column not in table.columns:
            raise unknown_value_error("column", column, table.columns, f"label=; {table.where}")
    if columns is not None and len(columns) > 1 and options.several is False:
        raise UserError(
            f"label=[{','.join(columns)}] names several columns, but multi_label=false means one label per row."
        )
    if options.several is False:
        return None
    notes = []
    if columns is None:
        free = [column for column in table.columns if column not in (options.text or ())]
        columns = _infer_columns(table, free)
        if columns is None:
            if options.several is None:
                return None
            columns = [infer_label_column(table, free)]
        notes.append(f"label={columns[0] if len(columns) == 1 else '[' + ','.join(columns) + ']'} (inferred)")
    return _of_each(table, columns, notes) if len(columns) > 1 else _of_cells(table, columns[0], options, notes)


def _infer_columns(table: Table, free: Sequence[str]) -> list[str] | None:
    """The column with a label's name; several yes/no columns; or one of lists, or of joined labels.

    None if the label column is to be inferred as for rows with one label.
    """
    if by_name := [column for name in LABEL_NAMES for column in free if column.lower() == name]:
        return by_name[:1]
    if len(indicators := indicator_columns(table, free)) > 1:
        return indicators
    holding = [column for column in free if _holds_several([row[column] for row in table.rows])]
    try:
        infer_label_column(table, free)
        return None
    except UserError:
        return holding if len(holding) == 1 else None


def _holds_several(cells: Sequence[Any]) -> bool:
    """Whether these cells are lists, or short texts with separators."""
    if any(not_text(cell) is not None for cell in cells):
        return all(not_text(cell) == "a list" or is_missing(cell) for cell in cells)
    texts = [cell_text(cell) for cell in cells if not is_missing(cell)]
    return bool(texts) and max(map(len, texts)) <= MAX_LABEL_CHARACTERS and find_separator(texts) is not None


def _of_each(table: Table, columns: Sequence[str], notes: Sequence[str]) -> LabelSets:
    """The labels of yes/no columns, one per label."""
    rows = []
    for number, row in enumerate(table.rows, start=1):
        said = []
        for column in columns:
            try:
                said.append(says_yes(row[column]))
            except ValueError as error:
                raise UserError(f"{table.where}, row {number}, column {column!r}: {error}.") from error
        rows.append([column for column, yes in zip(columns, said, strict=True) if yes])
    found = f"a row may have several labels, one per yes/no column ({shorten_list(columns)})"
    return LabelSets(columns, rows, of_each=True, notes=[*notes, found])


def _of_cells(table: Table, column: str, options: SetOptions, notes: Sequence[str]) -> LabelSets | None:
    """The labels of a column that has all labels of a row in one cell."""
    cells = [row[column] for row in table.rows]
    for number, cell in enumerate(cells, start=1):
        if (kind := not_text(cell)) is not None and kind != "a list":
            raise UserError(
                f"{table.where}, row {number}: the label {column!r} is {kind} ({shown(cell)}), but must be a text or"
                " a number: keep only the part that is the label."
            )
    known = [cell_text(label) for label in options.labels or ()]
    listed = [number for number, cell in enumerate(cells, start=1) if listed_labels(cell) is not None]
    texts = [cell for cell in cells if listed_labels(cell) is None and not is_missing(cell)]
    if options.several is None and options.separator is None and not listed and not _are_joined(texts, known):
        return None
    separator = options.separator or _separator(texts, known)
    rows = [label_parts(cell, separator, known) for cell in cells]
    found = [f"a row may have several labels ({ONE_EACH})"]
    if listed:
        found = [f"a row may have several labels, as the lists of {rows_named(listed)} show"]
    elif any(len(row) > 1 for row in rows):
        first = next(cell_text(cell) for cell, row in zip(cells, rows, strict=True) if len(row) > 1)
        found = [f"a row may have several labels, separated by {separator!r} as in {first!r} ({ONE_EACH})"]
    return LabelSets([column], rows, separator, notes=[*notes, *found])


def _are_joined(texts: Sequence[Any], known: Sequence[str]) -> bool:
    """Whether these cells join several labels: known ones, or labels that also occur on their own."""
    if not known:
        return find_separator(texts) is not None
    names = [name for name in dict.fromkeys(map(cell_text, texts)) if match_label(name, known) is None]
    return any(_splits_into(known, names, separator) for separator in SEPARATORS)


def _splits_into(known: Sequence[str], names: Sequence[str], separator: str) -> bool:
    """Whether most names with the separator consist of known labels joined by it."""
    joined = [parts for name in names if len(parts := label_parts(name, separator, known)) > 1]
    fitting = [parts for parts in joined if all(match_label(part, known) is not None for part in parts)]
    return bool(fitting) and 2 * len(fitting) >= len(joined)


def _separator(texts: Sequence[Any], known: Sequence[str]) -> str:
    """The separator that splits cells into known labels; else the detected one, or the most frequent one."""
    names = list(dict.fromkeys(map(cell_text, texts)))
    if known and (fitting := [separator for separator in SEPARATORS if _splits_into(known, names, separator)]):
        return fitting[0]
    if (found := find_separator(names)) is not None:
        return found[0]
    return max(SEPARATORS, key=lambda separator: sum(separator in name for name in names))
