"""From a row's label to the index of the right choice: classes that all rows share, or choices of each row."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired

from typing_extensions import TypedDict

from tfew.data.cells import alike_key, cell_text, without_point
from tfew.errors import UserError, unknown_value_error
from tfew.files.untrusted import parse_json, validated

CHOICE_SEPARATOR = "|||"
LABEL_ENCODINGS = ("text", "number", "letter")  # of the right one among a row's own choices


class Rule(ABC):
    """`column` holds the label."""

    column: str

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
        """The label that is spelt so, or in a user's table (where labels are names alone) the only one alike, or -1."""
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


def parse_choices(cell: Any) -> list[str]:
    """A row's choices: a list, a list in JSON, or "one ||| another"; raises ValueError for fewer than two."""
    listed = cell
    if isinstance(cell, str):
        parsed = _json_list(cell)
        listed = [part.strip() for part in cell.split(CHOICE_SEPARATOR)] if parsed is None else parsed
    if not isinstance(listed, list | tuple) or len(listed) < 2:
        raise ValueError(f"{cell!r} is no list of choices: a JSON list, or 'one ||| another'")
    choices = [cell_text(choice) for choice in listed]
    if bad := [choice for choice in choices if not choice or CHOICE_SEPARATOR in choice]:
        raise ValueError(f"a choice is {'empty' if not bad[0] else f'{bad[0]!r}, with |||'}")
    if len(set(choices)) < len(choices):
        raise ValueError(f"a choice stands twice among {choices}")
    return choices


class _Label(TypedDict):
    column: str
    names: NotRequired[list[Any] | None]
    first: NotRequired[int | None]
    choices: NotRequired[str | None]
    by: NotRequired[str | None]


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
    return LabelRule(label["column"], names, label.get("first"))


def _json_list(cell: str) -> list[Any] | None:
    if not cell.lstrip().startswith("["):
        return None
    try:
        parsed = parse_json(cell)
    except ValueError:
        return None
    return parsed if isinstance(parsed, list) else None
