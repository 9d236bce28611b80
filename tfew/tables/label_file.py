"""A file that lists labels: their names, and in an optional second column their words.

A table (.csv, .tsv, .jsonl, .parquet, .xlsx) has a row for each label, below the header; its first column is the name,
the second the words. YAML (.yaml, .yml) is {name: words, ...}, or a list of names.
"""

import logging
from pathlib import Path
from typing import Any

import yaml

from tfew.errors import UserError
from tfew.files.regular import read_text
from tfew.tables.stream import file_ending, is_table
from tfew.tables.table_reader import read_table

log = logging.getLogger(__name__)

YAML = (".yaml", ".yml")
WITH_HEADER = (".csv", ".tsv", ".xlsx", ".xlsm")  # its first line may be missing, and a label be taken for it


def is_label_file(name: str) -> bool:
    """Whether a file of this name may list labels."""
    return is_table(name) or Path(name).suffix.lower() in YAML


def read_labels(path: Path) -> dict[str, str] | list[str]:
    """{name: words}, or the names only; raises UserError for anything else, or if there is no such file."""
    if not path.is_file():
        raise UserError(f"{path}, which should list labels, is not a file.")
    found = _of_yaml(path) if path.suffix.lower() in YAML else _of_table(path)
    names = list(found)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path} lists {repeated[0]!r} twice: list each label once.")
    return found


def _of_table(path: Path) -> dict[str, str] | list[str]:
    table = read_table(path)
    if len(table.columns) > 2:
        raise UserError(
            f"{path} has {len(table.columns)} columns ({', '.join(table.columns)}): a list of labels has one, the name,"
            " or two, the name and the words for it."
        )
    for number, row in enumerate(table.rows, start=1):
        for column in table.columns:
            if row[column] is None or not str(row[column]).strip():
                raise UserError(f"{path}, row {number}: {column!r} is empty.")
    if file_ending(path.name) in WITH_HEADER:
        header, count = ", ".join(map(repr, table.columns)), len(table.rows)
        log.info(f"{path}: its first line, {header}, is the header; {count} label{'s' * (count > 1)} below it.")
    rows = [[str(row[column]).strip() for column in table.columns] for row in table.rows]
    names = [row[0] for row in rows]
    if len(table.columns) == 1 or len(set(names)) < len(names):
        return names
    return {row[0]: row[1] for row in rows}


def _of_yaml(path: Path) -> dict[str, str] | list[str]:
    try:
        found: Any = yaml.load(read_text(path), yaml.BaseLoader)  # names as written: no does not become false
    except (yaml.YAMLError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    texts = found if isinstance(found, list) else [*found, *found.values()] if isinstance(found, dict) else []
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f"{path} lists no labels: it must be NAME: WORDS line by line, or - NAME line by line.")
    return found
