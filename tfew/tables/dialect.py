"""Detects a table's dialect from its beginning: delimiter, quoting, and blanks."""

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from tfew.tables.formats import Format

DELIMITERS = (",", ";", "\t", "|")
QUOTE = '"'
CHANCE = 3  # delimiters in a cell of several lines that may be in the places of columns
SAMPLE_LINES = 200  # from which the dialect is detected
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # which Excel reads and writes above the header
NAMES = {"\t": "a tab", ",": "','", ";": "';'", "|": "'|'"}


def detect_dialect(lines: Sequence[str], usual: str, is_whole: bool) -> Format:
    """The dialect that parses these lines without an error into the most columns; ties go to the plainest.

    Some tables, mostly .tsv, do not use quoting: there a quotation mark is an ordinary character. That is assumed only
    if no dialect with quoting fits, for it makes more columns of a quoted cell that holds the delimiter. `usual`: the
    delimiter implied by the file's ending; a tab allows no other. `is_whole`: whether these are all lines.
    """
    lines = [line for line in lines if line.strip()]
    if lines and (separator := SEPARATOR_LINE.fullmatch(lines[0])):
        delimiters: Sequence[str] = (separator[1],)
        lines = lines[1:]
    else:
        delimiters = (usual,) if usual == "\t" else DELIMITERS
    header = lines[0] if lines else ""
    forms = [
        Format(delimiter=delimiter, quoting=quoting, skip_blanks=skip != _has_blanks(header, delimiter))
        for quoting, skip, delimiter in product((True, False), (False, True), delimiters)
    ]
    columns = [_count_columns(lines, form, is_whole) for form in forms]
    half = len(forms) // 2
    for start in (0, half):  # those with quoting, then those without
        of_half = columns[start : start + half]
        if max(of_half) > 1:
            return forms[start + of_half.index(max(of_half))]
    likely = max(delimiters, key=header.count)
    return Format(delimiter=likely, skip_blanks=_has_blanks(header, likely))


def detect_quoting(lines: Sequence[str], form: Format, is_whole: bool) -> Format:
    """The form found in a sample without quotation marks, or without quoting if only that parses these lines, too."""
    lines = [line for line in lines if line.strip()]
    if lines and SEPARATOR_LINE.fullmatch(lines[0]):
        lines = lines[1:]
    plain = replace(form, quoting=False)
    return plain if not _count_columns(lines, form, is_whole) and _count_columns(lines, plain, is_whole) > 1 else form


def are_whole_rows(lines: Sequence[str], form: Format, columns: int) -> bool:
    """Whether these lines, which were read as one row, would each be a row of their own without quoting."""
    return len(lines) > 1 < columns and all(line.count(form.delimiter) == columns - 1 for line in lines)


def are_joined_by_mistake(lines: Sequence[str], form: Format, columns: int) -> bool:
    """`are_whole_rows`, and hardly by chance: cells seldom hold tabs, nor the same number of commas in each line."""
    return are_whole_rows(lines, form, columns) and (form.delimiter == "\t" or len(lines) * (columns - 1) > CHANCE)


def _has_blanks(header: str, delimiter: str) -> bool:
    """Whether each delimiter of the header is followed by a blank."""
    later = header.rstrip("\r\n").split(delimiter)[1:]
    return bool(later) and all(name.startswith(" ") and name.strip() for name in later)


def _count_columns(lines: Sequence[str], form: Format, is_whole: bool) -> int:
    """The number of columns of these lines in this dialect; 0 if lines differ or cannot be parsed.

    Also 0 if a quotation mark joins whole rows of a tab-separated table, which is often written without quoting.
    """
    widths: set[int] = set()
    reader, start = csv.reader(lines, **csv_options(form)), 0
    try:
        for row in reader:
            if form.delimiter == "\t" and are_whole_rows(lines[start : reader.line_num], form, len(row)):
                return 0
            start = reader.line_num
            widths |= {len(row)} if any(cell.strip() for cell in row) or len(row) > 1 else set()
            if any(_is_quoted(cell, form) for cell in row):
                return 0
    except csv.Error:
        if is_whole or reader.line_num < len(lines):  # the sample may end in the middle of a cell
            return 0
    return widths.pop() if len(widths) == 1 else 0


def _is_quoted(cell: str, form: Format) -> bool:
    """Whether a cell is still in quotation marks that this dialect should have removed: then it is the wrong one."""
    if form.quoting:
        cell = cell[1:] if cell.startswith(" ") and not form.skip_blanks else ""
    return len(cell) > 1 and cell[0] == cell[-1] == QUOTE


def csv_options(form: Format) -> dict[str, Any]:
    """The options of `csv.reader` for this dialect."""
    quoting = csv.QUOTE_MINIMAL if form.quoting else csv.QUOTE_NONE
    return {"delimiter": form.delimiter, "quoting": quoting, "skipinitialspace": form.skip_blanks, "strict": True}


def describe_delimiter(delimiter: str) -> str:
    return NAMES.get(delimiter, repr(delimiter))
