"""The page's CSV files: a table in, the same table with labels out."""

import csv
import io
from collections.abc import Iterator, Sequence

from tfew.errors import UserError
from tfew.service.queue import Answer

LABEL, PROBABILITY = "label", "probability"
csv.field_size_limit(2**27)  # the body's size is limited already


def read_table(body: bytes) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows; raises UserError if it is no table with a header line."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"The table is not UTF-8 (byte {error.start}).") from error
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True))
    except csv.Error as error:
        raise UserError(f"The table is no CSV: {error}.") from error
    lines = [line for line in lines if line]
    if len(lines) < 2:
        raise UserError("The table has no rows below its header line.")
    columns, rows = lines[0], lines[1:]
    if len(set(columns)) < len(columns):
        raise UserError("The header line of the table names a column twice.")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(columns):
            raise UserError(f"Row {number} has {len(row)} cells, the header line {len(columns)}.")
    return columns, [dict(zip(columns, row, strict=True)) for row in rows]


def write_table(columns: Sequence[str], rows: Sequence[dict[str, str]], answers: Sequence[Answer]) -> str:
    """The table with two more columns, label and probability, renamed if the table has columns of that name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    added = list(_free_names(columns))
    writer.writerow([*columns, *added])
    for row, answer in zip(rows, answers, strict=True):
        labelled = answer.labelled
        writer.writerow([*row.values(), labelled.label, f"{labelled.probability:.4f}"])
    return text.getvalue()


def _free_names(columns: Sequence[str]) -> Iterator[str]:
    for name in (LABEL, PROBABILITY):
        while name in columns:
            name = f"predicted_{name}"
        yield name


def _delimiter(text: str) -> str:
    """The most frequent of comma, semicolon and tab in the header line."""
    header = text.partition("\n")[0]
    return max(",;\t", key=header.count)
