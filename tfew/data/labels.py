"""From a row's label to the index of the right choice: classes that all rows share, or choices of each row.

If a row may have several labels: to the indices of all of them.
"""

import ast
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired

from typing_extensions import TypedDict

from tfew.data.cells import alike_key, cell_text, is_missing, without_point
from tfew.errors import UserError, unknown_value_error
from tfew.files.untrusted import parse_json, validated

CHOICE_SEPARATOR = "|||"
SEPARATORS = (";", "|", ",")  # between the labels of a row, where there are several
YES, NO = {"1", "true", "yes", "x"}, {"0", "false", "no", ""}  # in a column for one label
MOST_CHARACTERS = 10_000  # of a text that is read as a list
LABEL_ENCODINGS = ("text", "number", "letter")  # of the right one among a row's own choices


class Rule(ABC):
    """`column` holds the label."""

    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that the label is read from."""
        return (self.column,)

    @abstractmethod
    def choice_index(self, fields: Mapping[str, Any]) -> int:
        """The index of the right choice of a row; raises ValueError that lists the known labels."""


@dataclass(frozen=True)
class LabelRule(Rule):
    """`names`: per index, the spellings of the label in the distributed files.

    A number (or digits) that is none of them counts from `first`, as on the Hub; `first` None: only names are
    accepted. Booleans are 0 and 1.
    """

    column: str
    names: tuple[tuple[str, ...], ...]
    first: int | None = 0

    def choice_index(self, fields: Mapping[str, Any]) -> int:
        return self.index(fields[self.column])

    def index(self, value: Any) -> int:
        index = self._spelt(value)
        if index < 0 and self.first is not None:
            if isinstance(value, bool):
                index = int(value)
            elif isinstance(value, int) or (isinstance(value, str) and value.strip().isdigit()):
                index = int(value) - self.first
        if not 0 <= index < len(self.names):
            raise ValueError(f"label {value!r} in column {self.column!r} is none of {', '.join(self._known_labels())}")
        return index

    def _spelt(self, value: Any) -> int:
        """Index of the label with this spelling; in a user's table (names only) also of the only alike one; else -1."""
        text = cell_text(value)
        for spelling in (value, text, without_point(text), f"{text}.0"):
            if (index := next((i for i, names in enumerate(self.names) if spelling in names), -1)) >= 0:
                return index
        if self.first is not None:
            return -1
        alike = [i for i, names in enumerate(self.names) if alike_key(text) in map(alike_key, names)]
        return alike[0] if len(alike) == 1 else -1

    def _known_labels(self) -> list[str]:
        spellings = ["/".join(names) for names in self.names]
        if self.first is None:
            return spellings
        return [f"{number} ({names})" for number, names in enumerate(spellings, start=self.first)]


@dataclass(frozen=True)
class ChoiceRule(Rule):
    """Every row has choices of its own, in the column `choices`.

    `by`, one of LABEL_ENCODINGS: the label is the text of the right choice, its number from `first`, or its letter.
    """

    column: str
    choices: str
    by: str
    first: int = 0

    def choice_index(self, fields: Mapping[str, Any]) -> int:
        label, choices = cell_text(fields[self.column]), parse_choices(fields[self.choices])
        index = self._index(label, choices)
        if not 0 <= index < len(choices):
            good = {"text": choices, "number": range(self.first, self.first + len(choices)), "letter": "ABCDEFGH"}
            listing = ", ".join(map(repr, list(good[self.by])[: len(choices)]))
            raise ValueError(f"label {label!r} in column {self.column!r} is none of the row's choices: {listing}")
        return index

    def _index(self, label: str, choices: Sequence[str]) -> int:
        if self.by == "text":
            return choices.index(label) if label in choices else -1
        if self.by == "number":
            return int(label) - self.first if label.isdigit() else -1
        return ord(label.upper()) - ord("A") if len(label) == 1 else -1


@dataclass(frozen=True)
class LabelSetRule(Rule):
    """A row has any number of the labels `names`.

    They are in one cell, joined by `separator` if it is text; or with `of_each` each name has a yes/no column, in the
    same order. An empty cell means no label.
    """

    column: str
    names: tuple[str, ...]
    separator: str = SEPARATORS[0]
    of_each: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return self.of_each or (self.column,)

    def choice_index(self, fields: Mapping[str, Any]) -> int:
        raise ValueError(f"a row may have several labels in column {self.column!r}")

    def label_set(self, fields: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """The indices of the row's labels, in their order, and those of its labels that are none of the names."""
        if self.of_each:
            said = [says_yes(fields[column]) for column in self.of_each]
            return tuple(place for place, yes in enumerate(said) if yes), ()
        parts = label_parts(fields[self.column], self.separator, self.names)
        meant = {part: match_label(part, self.names) for part in parts}
        found = {name for name in meant.values() if name is not None}
        others = tuple(part for part, name in meant.items() if name is None)
        return tuple(place for place, name in enumerate(self.names) if name in found), others


def says_yes(cell: Any) -> bool:
    """Whether a cell of a label's yes/no column means yes; raises ValueError if it is neither yes nor no."""
    text = "" if is_missing(cell) else without_point(cell_text(cell)).lower()
    if text not in YES | NO:
        raise ValueError(f"{cell!r} is neither yes nor no (1 and 0, true and false, x and an empty cell)")
    return text in YES


def label_parts(cell: Any, separator: str, known: Sequence[str] = ()) -> list[str]:
    """The labels in a cell, each once: a list, a list written as text, or texts between separators.

    A `known` label may contain the separator: longer known labels are matched first.
    """
    listed = listed_labels(cell)
    if listed is not None:
        return list(dict.fromkeys(without_point(cell_text(label)) for label in listed if not is_missing(label)))
    if is_missing(cell):
        return []
    pieces = without_point(cell_text(cell)).split(separator)
    found, start = dict[str, None](), 0
    while start < len(pieces):
        spans = [(separator.join(pieces[start:end]).strip(), end) for end in range(len(pieces), start, -1)]
        span, start = next((span for span in spans if match_label(span[0], known) is not None), spans[-1])
        if span:
            found[span] = None
    return list(found)


def listed_labels(cell: Any) -> list[Any] | None:
    """The items of a list, also of one written as text in JSON or Python syntax; None for other cells."""
    if isinstance(cell, list | tuple | set):
        return sorted(cell, key=str) if isinstance(cell, set) else list(cell)
    if not isinstance(cell, str) or not cell.strip().startswith("[") or len(cell) > MOST_CHARACTERS:
        return None
    if (parsed := _json_list(cell)) is not None:
        return parsed
    try:
        read = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return read if isinstance(read, list) else None


def match_label(name: str, known: Sequence[str]) -> str | None:
    """The known label that matches exactly, else the only one that is alike; None if there is none."""
    if name in known:
        return name
    alike = [other for other in known if alike_key(other) == alike_key(name)]
    return alike[0] if len(alike) == 1 else None


def parse_choices(cell: Any) -> list[str]:
    """A row's choices: a list, a list in JSON, or "one ||| another"; raises ValueError for fewer than two."""
    listed = cell
    if isinstance(cell, str):
        parsed = _json_list(cell)
        listed = [part.strip() for part in cell.split(CHOICE_SEPARATOR)] if parsed is None else parsed
    if not isinstance(listed, list | tuple) or len(listed) < 2:
        raise ValueError(f"{cell!r} is not a list of choices: write a JSON list, or 'one ||| another'")
    choices = [cell_text(choice) for choice in listed]
    if bad := [choice for choice in choices if not choice or CHOICE_SEPARATOR in choice]:
        raise ValueError(f"a choice is {'empty' if not bad[0] else f'{bad[0]!r}, with |||'}")
    if len(set(choices)) < len(choices):
        raise ValueError(f"a choice is repeated in {choices}")
    return choices


class _Label(TypedDict):
    column: str
    names: NotRequired[list[Any] | None]
    first: NotRequired[int | None]
    choices: NotRequired[str | None]
    by: NotRequired[str | None]
    several: NotRequired[bool]
    separator: NotRequired[str]
    of_each: NotRequired[list[str]]


def label_rule(dataset: str, label: Mapping[str, Any]) -> Rule:
    """The rule that `label` of a data set's YAML describes."""
    try:
        validated(label, _Label)
    except ValueError as error:
        raise UserError(f"dataset.label of {dataset}: {error}.") from error
    if label.get("choices") is not None:
        if label.get("by") not in LABEL_ENCODINGS:
            raise unknown_value_error("value", label.get("by"), LABEL_ENCODINGS, "dataset.label.by=")
        return ChoiceRule(label["column"], label["choices"], label["by"], label.get("first") or 0)
    names = tuple(tuple(n) if isinstance(n, list) else (n,) for n in label.get("names") or ())
    if not all(isinstance(name, str) for group in names for name in group):
        raise UserError(
            f"dataset.label.names of {dataset} holds something that is not text: {label['names']}."
            " Quote it: YAML reads a bare yes, no, on or off as a boolean."
        )
    if label.get("several"):
        of_each = tuple(label.get("of_each") or ())
        flat = tuple(name for group in names for name in group[:1])
        if of_each and len(of_each) != len(flat):
            raise UserError(f"dataset.label.of_each of {dataset} has {len(of_each)} columns for {len(flat)} names.")
        return LabelSetRule(label["column"], flat, label.get("separator") or SEPARATORS[0], of_each)
    return LabelRule(label["column"], names, label.get("first"))


def _json_list(cell: str) -> list[Any] | None:
    if not cell.lstrip().startswith("["):
        return None
    try:
        parsed = parse_json(cell)
    except ValueError:
        return None
    return parsed if isinstance(parsed, list) else None
