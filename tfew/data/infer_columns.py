"""Infers which columns hold label and text, and how a label encodes the right one of a row's choices."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfew.data.cells import cell_text
from tfew.data.label_column import indicator_columns
from tfew.data.labels import ChoiceRule, parse_choices
from tfew.errors import UserError, shorten_list
from tfew.tables.table_reader import Table

LABEL_NAMES = (
    "label",
    "labels",
    "class",
    "category",
    "target",
    "sentiment",
    "intent",
    "topic",
    "answer",
    "rating",
    "y",
    "answer_key",
    "answerkey",
    "correct_answer",
    "correct_option",
    "correct",
    "tags",
    "genre",
    "genres",
    "categories",
    "topics",
)
MAX_LABEL_CHARACTERS = 60  # in the values of a column inferred as the label column
TEXT_NAMES = ("text", "sentence", "review", "content", "body", "message", "tweet", "question", "query", "document")
CANDIDATE_ENCODINGS = (  # of the right choice: `ChoiceRule.by`, `ChoiceRule.first`, description
    ("text", 0, "its text"),
    ("number", 0, "its number, from 0"),
    ("number", 1, "its number, from 1"),
    ("letter", 0, "its letter"),
)


def infer_label_column(table: Table, free: Sequence[str]) -> str:
    """The column with a usual label name, else the only categorical one; raises UserError if there is none."""
    by_name = [column for name in LABEL_NAMES for column in free if column.lower() == name]
    candidates = by_name[:1] or [column for column in free if _is_categorical(table, column)]
    if not by_name and len(indicators := indicator_columns(table, free)) > 1:
        raise UserError(
            f"{table.where} has several yes/no columns ({shorten_list(indicators)}): name one of them with"
            f" label=, or set label=[{','.join(sorted(indicators))}] if each is a label that a row may have."
        )
    if len(candidates) != 1:
        which = f"; it could be {shorten_list(candidates)}" if candidates else ""
        raise UserError(f"Which column of {table.where} is the label? Set label=, one of {shorten_list(free)}{which}.")
    return candidates[0]


def infer_text_column(table: Table, free: Sequence[str]) -> str:
    """The column with a usual text name, else the one with the longest texts; raises UserError if there is none."""
    texts = [column for column in free if any(isinstance(row[column], str) for row in table.rows)]
    if not texts:
        raise UserError(f"{table.where} has no text column besides the label; it has {shorten_list(table.columns)}.")
    by_name = [column for name in TEXT_NAMES for column in texts if column.lower() == name]
    length = {column: sum(len(cell_text(row[column])) for row in table.rows) for column in texts}
    return by_name[0] if by_name else max(texts, key=length.__getitem__)


def infer_label_encoding(table: Table, label: str, choices: str) -> tuple[str, int, str]:
    """The first of CANDIDATE_ENCODINGS that fits every row; raises UserError if none does, or if it is ambiguous."""
    rows = [{label: row[label], choices: _row_choices(table, number, choices)} for number, row in enumerate(table.rows)]
    fitting = [
        encoding
        for encoding in CANDIDATE_ENCODINGS
        if all(_fits(ChoiceRule(label, choices, *encoding[:2]), row) for row in rows)
    ]
    if not fitting:
        rule = ChoiceRule(label, choices, "text")
        number, row = next((n, row) for n, row in enumerate(rows, start=1) if not _fits(rule, row))
        raise UserError(
            f"{table.where}: the label {label!r} must be the right choice's text, number or letter in every row; in row"
            f" {number} it is {cell_text(row[label])!r}, with the choices {row[choices]}."
        )
    if [encoding[0] for encoding in fitting[:2]] == ["number", "number"]:
        raise UserError(
            f"{table.where}: numbers in {label!r} may count from 0 or from 1: write the right choice's text instead."
        )
    return fitting[0]


def _row_choices(table: Table, number: int, column: str) -> list[str]:
    try:
        return parse_choices(table.rows[number][column])
    except ValueError as error:
        raise UserError(f"{table.where}, row {number + 1}, column {column!r}: {error}.") from error


def _fits(rule: ChoiceRule, row: Mapping[str, Any]) -> bool:
    try:
        return rule.choice_index(row) >= 0
    except ValueError:
        return False


def _is_categorical(table: Table, column: str) -> bool:
    values = [cell_text(row[column]) for row in table.rows if row[column] is not None]
    distinct = set(values)
    return 2 <= len(distinct) <= max(2, len(values) // 3) and max(map(len, distinct)) <= MAX_LABEL_CHARACTERS
