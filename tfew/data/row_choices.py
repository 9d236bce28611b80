"""Recognises multiple-choice tables: each row's choices are in one column of lists, or in one column per choice."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tfew.data.cells import gathered
from tfew.data.infer_columns import infer_label_encoding
from tfew.data.labels import parse_choices
from tfew.errors import UserError
from tfew.tables.table_reader import Table

NUMBERED = re.compile(r"(.*?)[\s_.-]*([A-Za-z]|\d{1,2})\)?")  # a column of one choice: A, option_1, "choice b"
WORDS = {"", "option", "options", "choice", "choices", "answer", "alternative", "opt", "ending", "ans"}
COLUMN = "options"  # name of the list column made from several columns


def infer_choices(table: Table, label: str, free: Sequence[str]) -> str | list[str] | None:
    """The column that lists each row's choices, or the columns with one choice each; None if there are none.

    The label must name the right choice in every row.
    """
    for column in free:
        if isinstance(table.rows[0][column], list | tuple | str) and _fit(table, label, column):
            return column
    for columns in _numbered(free):
        name = list_name(table)
        if _fit(with_list(table, name, columns), label, name):
            return columns
    return None


def list_name(table: Table) -> str:
    name = COLUMN
    while name in table.columns:
        name += "_"
    return name


def with_list(table: Table, name: str, columns: Sequence[str]) -> Table:
    """The table with an added column: the list of these columns' cells."""
    rows = []
    for number, row in enumerate(table.rows, start=1):
        try:
            rows.append({**row, name: gathered([row[column] for column in columns])})
        except ValueError as error:
            raise UserError(f"{table.where}, row {number}: {error}.") from error
    return replace(table, columns=[*table.columns, name], rows=rows)


def _fit(table: Table, label: str, column: str) -> bool:
    try:
        for row in table.rows:
            parse_choices(row[column])
        infer_label_encoding(table, label, column)
    except (UserError, ValueError):
        return False
    return True


def _numbered(columns: Sequence[str]) -> list[list[str]]:
    """Groups of columns called A, B, C or option 1, option 2, ..., in this order and without a gap."""
    groups: dict[tuple[str, bool], dict[int, str]] = {}
    for column in columns:
        found = NUMBERED.fullmatch(column.strip().strip("("))
        if found is None or found[1].strip().lower() not in WORDS:
            continue
        place = int(found[2]) if found[2].isdigit() else ord(found[2].lower()) - ord("a")
        groups.setdefault((found[1].strip().lower(), found[2].isdigit()), {})[place] = column
    in_order = [[group[place] for place in sorted(group)] for group in groups.values() if _without_gap(group)]
    return [group for group in in_order if len(group) > 1]


def _without_gap(places: Mapping[int, str]) -> bool:
    first = min(places)
    return first in (0, 1) and sorted(places) == list(range(first, first + len(places)))
