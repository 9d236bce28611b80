"""Cells of a table: whether one is missing, text or another type; and when two texts count as alike."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from tfew.errors import UserError

WHOLE = re.compile(r"([+-]?\d+)\.0+")  # a whole number, written as a float
FRACTION = re.compile(r"[+-]?\d*\.\d*[1-9]\d*")  # a number that is not whole
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")  # a number as much of Europe writes it
BETWEEN_WORDS = re.compile(r"(?<=\w)[\s_-]+(?=\w)|[\s_]+")
MISSING_TYPES = ("NAType", "NaTType", "MaskedConstant")  # of pandas, which may not be installed, and of numpy
MISSING_WORDS = {"nan", "none", "null", "n/a", "na", "#n/a", "<na>", "nil", "-", "?"}  # they may mark missing cells


def cell_text(value: Any) -> str:
    """A cell's value as text; booleans of JSON and Parquet as JSON writes them."""
    return json.dumps(value) if isinstance(value, bool) else str(value).strip()


def is_missing(value: Any) -> bool:
    """Whether it is None, NaN, another library's missing value, or a text of blanks only."""
    if isinstance(value, str):
        return not value.strip()
    if value is None or type(value).__name__ in MISSING_TYPES:
        return True
    unlike = value != value  # of an array it is one, too
    return type(unlike).__name__ in ("bool", "bool_") and bool(unlike)


def plain(value: Any) -> Any:
    """The value as plain Python: numpy's scalars and arrays converted, None for every missing value but a text."""
    is_of_numpy = type(value).__module__ == "numpy"
    if is_of_numpy and type(value).__name__ not in ("datetime64", "timedelta64"):  # these may become nanoseconds
        value = value.tolist()
    return None if not isinstance(value, str) and is_missing(value) else value


def not_text(value: Any) -> str | None:
    """The kind of a value that a prompt cannot show, in words; None for texts, numbers, dates and the like."""
    if isinstance(value, bytes | bytearray | memoryview):
        return "binary data"
    if isinstance(value, Mapping):
        return "a dictionary"
    if isinstance(value, str):
        return None if is_utf8(value) else "half a character"
    return "a list" if isinstance(value, list | tuple | set) else None


def is_utf8(text: str) -> bool:
    """Whether it can be encoded: lone surrogates, as of a text that was cut within an emoji, cannot."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def without_point(text: str) -> str:
    """1.0 -> 1, any other text as it is."""
    whole = WHOLE.fullmatch(text)
    return whole[1] if whole else text


def alike_key(text: str) -> str:
    """A key that is equal for texts which differ only in case, Unicode normalisation form, blanks, underscores and
    hyphens between words, or a whole number's decimal point."""
    folded = unicodedata.normalize("NFKC", text).casefold().strip()
    return without_point(BETWEEN_WORDS.sub(" ", folded).strip())


def shown(value: Any, most_characters: int = 40) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= most_characters else f"{text[: most_characters - 3]}..."


def not_text_error(where: str, column: str, value: Any, kind: str) -> UserError:
    remedy = {
        "binary data": "decode it, as in df[column].str.decode('utf-8')",
        "half a character": "replace it, as text.encode('utf-8', 'replace').decode() does",
        "a list": "join its items into one text",
        "a dictionary": "turn its keys into columns",
    }[kind]
    return UserError(f"{where}: {column!r} holds {kind} ({shown(value)}), not text: {remedy}.")


def gathered(cells: Sequence[Any]) -> list[Any]:
    """The cells without trailing empty ones; raises ValueError for an empty one before a filled one."""
    kept = list(cells)
    while kept and is_missing(kept[-1]):
        kept.pop()
    if empty := [number for number, cell in enumerate(kept, start=1) if is_missing(cell)]:
        raise ValueError(f"choice {empty[0]} is empty, but a later one is not")
    return kept
