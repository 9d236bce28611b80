"""The labels of a user's table: reading each row's cell, refusing cells without a single label, and verbalizers."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfew.data.cells import (
    DECIMAL_COMMA,
    FRACTION,
    alike_key,
    cell_text,
    is_missing,
    not_text,
    not_text_error,
    shown,
    without_point,
)
from tfew.data.labels import SEPARATORS, match_label
from tfew.data.layout import humanize
from tfew.errors import UserError, shorten_list
from tfew.tables.table_reader import Table

ONE_LABEL = "multi_label=false allows one label per row"
MOST_ROWS = 5  # listed in a message
YES_AND_NO = ({"0", "1"}, {"false", "true"}, {"no", "yes"})


def check_filled(table: Table, columns: Sequence[str], what: str = "") -> None:
    """Raises UserError for rows in which all these columns are empty."""
    empty = [
        number
        for number, row in enumerate(table.rows, start=1)
        if columns and all(is_missing(row[column]) for column in columns)
    ]
    if empty:
        names = f"{what}{columns[0]!r} is" if len(columns) == 1 else f"all of {', '.join(columns)} are"
        nan = " (NaN)" if any(isinstance(table.rows[number - 1][columns[0]], float) for number in empty) else ""
        raise UserError(f"{table.where}, {rows_named(empty)}: {names} empty{nan}; fill it in or leave the row out.")


def rows_named(numbers: Sequence[int]) -> str:
    """Row numbers in words: "row 3", or "rows 3, 5, 7 and 12 more"."""
    listed = ", ".join(map(str, numbers[:MOST_ROWS]))
    more = f" and {len(numbers) - MOST_ROWS} more" if len(numbers) > MOST_ROWS else ""
    return f"row{'s' * (len(numbers) > 1)} {listed}{more}"


def check_texts(table: Table, columns: Sequence[str]) -> None:
    """Raises UserError for cells that a prompt could only show as Python source."""
    for column in columns:
        for number, row in enumerate(table.rows, start=1):
            if (kind := not_text(row[column])) is not None:
                raise not_text_error(f"{table.where}, row {number}", column, row[column], kind)


def label_names(table: Table, label: str) -> tuple[list[str], list[str]]:
    """The name of each row's label, and a note on labels with several spellings.

    Text, numbers and booleans that read the same are one label; whole numbers have no decimal point, unless
    other labels need one.
    """
    values = [row[label] for row in table.rows]
    names = [cell_text(value) for value in values]
    if not any(FRACTION.fullmatch(name) for name in names):
        plain = set(names)
        names = [
            short if isinstance(value, float) or short in plain else name
            for name, value in zip(names, values, strict=True)
            for short in [without_point(name)]
        ]
    spellings: dict[str, dict[str, None]] = defaultdict(dict)
    for name, value in zip(names, values, strict=True):
        spellings[name][cell_text(value) if isinstance(value, bool) else repr(value)] = None
    several = [f"{name} ({', '.join(found)})" for name, found in spellings.items() if len(found) > 1]
    return names, [f"labels with several spellings were merged: {shorten_list(several)}"] if several else []


def check_single(table: Table, label: str) -> None:
    """Raises UserError if a cell holds a list of labels, or something that cannot be a label."""
    if lists := [(number, row[label]) for number, row in enumerate(table.rows, 1) if not_text(row[label]) == "a list"]:
        several = [(number, value) for number, value in lists if len(value) > 1]
        number, value = (several or lists)[0]
        if several:
            holds, remedy = f"several labels in {len(several)} of {len(table.rows)} rows", "set multi_label=auto"
        else:
            holds, remedy = "lists of labels", "write the label itself in place of the list, or set multi_label=auto"
        raise UserError(
            f"{table.where}: {label!r} holds {holds}, such as row {number} ({shown(value)}); {ONE_LABEL}: {remedy}."
        )
    for number, row in enumerate(table.rows, start=1):
        value = row[label]
        kind = not_text(value)
        if kind is not None:
            raise UserError(
                f"{table.where}, row {number}: the label {label!r} is {kind} ({shown(value)}), but must be a text or"
                " a number: keep only the part that is the label."
            )


def find_separator(cells: Iterable[Any]) -> tuple[str, str] | None:
    """The separator between several labels in these cells, and an example cell; None if each holds one label.

    Most cells with the separator must hold labels that also occur elsewhere, and some must be no decimal number as 1,5.
    """
    distinct = dict.fromkeys(cell_text(cell) for cell in cells)
    for separator in SEPARATORS:
        joined = [(parts, name) for name in distinct if len(parts := _parts(name, separator)) > 1]
        uses = Counter(part for name in distinct for part in set(_parts(name, separator)))
        if separator == "," and all(DECIMAL_COMMA.fullmatch(name) for _, name in joined):
            continue
        known = [name for parts, name in joined if all(uses[part] > 1 for part in parts)]
        if known and 2 * len(known) >= len(joined):
            return separator, known[0]
    return None


def _parts(name: str, separator: str) -> list[str]:
    return [part.strip() for part in name.split(separator) if part.strip()]


def indicator_columns(table: Table, columns: Iterable[str]) -> list[str]:
    """Columns of yes/no, 0/1 or true/false in which both values occur."""
    return [
        column
        for column in columns
        if {cell_text(row[column]).lower() for row in table.rows if not is_missing(row[column])} in YES_AND_NO
    ]


def named_labels(table: Table, label: str, found: Sequence[str], listed: Sequence[Any]) -> list[str]:
    """Each row's label as one of the `listed` labels: an exact match, else the one that is alike.

    Raises UserError for labels of the table that are not among them.
    """
    known = [cell_text(name) for name in listed]
    if len(set(known)) < len(known) or not all(known) or len(known) < 2:
        raise UserError(f"labels={known} must list at least two labels, each once.")
    meant = {name: match_label(name, known) for name in dict.fromkeys(found)}
    if unknown := [name for name, match in meant.items() if match is None]:
        counts = Counter(found)
        listing = shorten_list(f"{name!r} ({counts[name]})" for name in unknown)
        raise UserError(
            f"{table.where}: labels= does not name {listing}, which {label!r} holds: list all labels, or leave these"
            " rows out."
        )
    return [match for name in found if (match := meant[name]) is not None]


def alike_labels(names: Iterable[str]) -> list[list[str]]:
    """Groups of labels that look like spellings of the same label."""
    groups: Mapping[str, list[str]] = defaultdict(list)
    for name in names:
        groups[alike_key(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def verbalizer(found: list[str], choices: Any) -> dict[str, str]:
    """The words for each label, in the labels' order; a user may list labels that no row has."""
    if choices is None:
        has_fraction = any(FRACTION.fullmatch(name) for name in found)
        words = [humanize(name if has_fraction else without_point(name)) for name in found]
        return dict(zip(found, words if len(set(words)) == len(found) and all(words) else found, strict=True))
    if isinstance(choices, Mapping):
        pairs = {cell_text(name): cell_text(word) for name, word in choices.items()}
    else:
        listed = [cell_text(word) for word in choices]
        if set(found) <= set(listed):
            pairs = {name: humanize(name) for name in listed}
        elif len(listed) == len(found) and _are_consecutive(found):
            pairs = dict(zip(found, listed, strict=True))
        else:
            raise UserError(
                f"choices={listed} does not say which words are for which label: set choices='{{{found[0]}: ...,"
                f" {found[1]}: ...}}', or list the labels {shorten_list(map(repr, found))} themselves."
            )
    if len(set(pairs.values())) < len(pairs) or not all(pairs.values()):
        raise UserError(f"choices= gives two labels the same words, or a label no words: {pairs}.")
    return pairs


def verbalizer_notes(names: Sequence[str], words: Sequence[str]) -> list[str]:
    """A note if words replace the table's labels, or a hint if they should."""
    if words != names:
        return ["the model says " + format_verbalizer(names, words)]
    if names and all(name.isdigit() for name in names):
        first, second = names[:2]
        return [f"words tell a model more than numbers do: choices='{{{first}: ..., {second}: ...}}'"]
    return []


def format_verbalizer(names: Sequence[str], words: Sequence[str]) -> str:
    return ", ".join(f"{word!r} for {name}" for name, word in zip(names, words, strict=True))


def _are_consecutive(names: list[str]) -> bool:
    """Whether these are 0, 1, 2, ... or 1, 2, 3, ...: then a list of words is unambiguous."""
    return names in ([str(number) for number in range(first, first + len(names))] for first in (0, 1))


def sort_key(name: str) -> tuple[bool, float, str]:
    """Numbers by size, before words."""
    try:
        return (False, float(name), name)
    except ValueError:
        return (True, 0.0, name)
