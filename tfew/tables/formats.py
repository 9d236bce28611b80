"""Reading files of rows: JSON lines, tables, and the older formats that a data set's YAML describes (`formats`)."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tfew.errors import UserError, unknown_value_error
from tfew.files.untrusted import parse_json
from tfew.tables.rows import Row

JSON_LINES = ("jsonl", "ndjson")
LETTER = re.compile(r"\(([A-Z])\) ")


@dataclass(frozen=True)
class Format:
    """A text file of rows: a table with a header line, or with `pattern` one row a line.

    encoding: tried in turn; delimiter: of columns; quoting: whether a quotation mark starts a cell that may hold
    delimiters; skip_blanks: ignore blanks after a delimiter; pattern: a regular expression whose named
    groups are the columns. Then, in this order: `add` adds constant columns to every row; `codes` replaces a column's
    text by its position among the listed spellings; `join` makes a column from others, joined by a space; `lettered`
    turns "(A) one (B) two" into {text: [one, two], label: [A, B]}.
    """

    encoding: Sequence[str] = ("utf-8",)
    delimiter: str = ","
    quoting: bool = True
    skip_blanks: bool = False
    pattern: str | None = None
    add: Mapping[str, Any] = field(default_factory=dict)
    codes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    join: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lettered: Sequence[str] = ()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], where: str) -> "Format":
        known = [f.name for f in fields(cls)]
        for key in config:
            if key not in known:
                raise unknown_value_error("key", key, known, f"{where}.")
        return cls(**config)


FORMATS: Mapping[str, Mapping[str, Any]] = MappingProxyType({"csv": {}, "tsv": {"delimiter": "\t"}})


def read_rows(path: Path, formats: Mapping[str, Mapping[str, Any]] = FORMATS) -> list[Row]:
    """Rows of a .jsonl, .csv or .tsv file, or of an ending that `formats` describes; an error names file and line."""
    ending = path.suffix.removeprefix(".")
    described = {**FORMATS, **formats}
    if ending not in {*JSON_LINES, *described}:
        known = [f".{name}" for name in (*JSON_LINES, *described)]
        raise unknown_value_error("file ending", path.suffix, known, f"of {path}")
    try:
        if ending in JSON_LINES:
            with path.open(encoding="utf-8", newline="") as lines:
                rows = list(_json_lines(path, lines))
        else:
            rows = _read_text(path, Format.from_config(described[ending], f"dataset.formats.{ending}"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if not rows:
        raise UserError(f"{path} is empty.")
    return rows


def _read_text(path: Path, form: Format) -> list[Row]:
    reader = _table_rows if form.pattern is None else _pattern_rows
    for encoding in form.encoding:
        try:
            with path.open(encoding=encoding, newline="") as lines:
                return [apply_format(row, form, path) for row in reader(path, lines, form)]
        except UnicodeDecodeError:
            if encoding == form.encoding[-1]:
                raise
    return []


def _json_lines(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number} is not valid JSON: {error}.") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is {type(row).__name__}, not a JSON object.")
        yield row


def _table_rows(path: Path, lines: Iterable[str], form: Format) -> Iterator[Row]:
    reader = csv.DictReader(
        lines,
        delimiter=form.delimiter,
        quoting=csv.QUOTE_MINIMAL if form.quoting else csv.QUOTE_NONE,
        skipinitialspace=form.skip_blanks,
        strict=True,
    )
    for row in reader:
        if None in row or None in row.values():
            raise UserError(
                f"{path}, line {reader.line_num} does not have the header's {len(reader.fieldnames or [])} columns."
            )
        yield row


def _pattern_rows(path: Path, lines: Iterable[str], form: Format) -> Iterator[Row]:
    pattern = re.compile(form.pattern or "")
    for number, line in enumerate(lines, start=1):
        match = pattern.fullmatch(line.strip())
        if match is None:
            raise UserError(f"{path}, line {number} is not of the form {form.pattern}: {line.strip()[:60]!r}.")
        yield match.groupdict()


def apply_format(row: Row, form: Format, path: Path) -> Row:
    """The row after `add`, `codes`, `join` and `lettered` of its format."""
    row = {**row, **form.add}
    for column, spellings in form.codes.items():
        if row.get(column) not in spellings:
            kind = f"value in column {column!r} of {path}"
            raise unknown_value_error(kind, row.get(column), spellings, "dataset.formats.")
        row[column] = list(spellings).index(row[column])
    for column, parts in form.join.items():
        row[column] = " ".join(str(row[part]) for part in parts)
    for column in form.lettered:
        row[column] = _split_lettered(row[column])
    return row


def _split_lettered(cell: str) -> dict[str, list[str]]:
    """A choice starts at the next letter of the alphabet; any other letter belongs to the text of a choice."""
    labels: list[str] = []
    starts: list[tuple[int, int]] = []
    for match in LETTER.finditer(cell):
        if match[1] == chr(ord("A") + len(labels)):
            labels.append(match[1])
            starts.append(match.span())
    ends = [start for start, _ in starts[1:]] + [len(cell)]
    texts = [cell[start:end].strip() for (_, start), end in zip(starts, ends, strict=True)]
    return {"text": texts, "label": labels}
