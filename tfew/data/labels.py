"""How a row's label becomes the index of the right choice: names that all rows share, or choices of the row's own."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired

from typing_extensions import TypedDict

from tfew.errors import UserError, unknown
from tfew.files.untrusted import parse_json, validated

CHOICE_SEPARATOR = "|||"
WAYS = ("text", "number", "letter")  # in which a label may say which of a row's own choices is right


def spelled(value: Any) -> str:
    """A label as its table spells it; of JSON and Parquet, which have values of other kinds than text, as JSON does."""
    return json.dumps(value) if isinstance(value, bool) else str(value).strip()


class Rule(ABC):
    """`column` holds the label."""

    column: str

    @abstractmethod
    def of(self, fields: Mapping[str, Any]) -> int:
        """The index of the right choice of a row; raises ValueError with the good values."""


@dataclass(frozen=True)
class LabelRule(Rule):
    """`names` are the label's spellings per index, as distributed.

    A number (or digits) that is none of them counts from `first`, which is the Hub's numbering; None: only names
    count. A boolean counts false 0, true 1.
    """

    column: str
    names: tuple[tuple[str, ...], ...]
    first: int | None = 0

    def of(self, fields: Mapping[str, Any]) -> int:
        return self.index(fields[self.column])

    def index(self, value: Any) -> int:
        index = next((i for i, names in enumerate(self.names) if value in names or spelled(value) in names), -1)
        if index < 0 and self.first is not None:
            if isinstance(value, bool):
                index = int(value)
            elif isinstance(value, int) or (isinstance(value, str) and value.strip().isdigit()):
                index = int(value) - self.first
        if not 0 <= index < len(self.names):
            raise ValueError(f"label {value!r} in column {self.column!r} is none of {', '.join(self._good())}")
        return index

    def _good(self) -> list[str]:
        spellings = ["/".join(names) for names in self.names]
        if self.first is None:
            return spellings
        return [f"{number} ({names})" for number, names in enumerate(spellings, start=self.first)]


@dataclass(frozen=True)
class ChoiceRule(Rule):
    """Every row has choices of its own, in the column `choices`.

    The label is the text of the right one, its number counted from `first`, or its letter (`by`, one of WAYS).
    """

    column: str
    choices: str
    by: str
    first: int = 0

    def of(self, fields: Mapping[str, Any]) -> int:
        label, choices = spelled(fields[self.column]), as_choices(fields[self.choices])
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


def as_choices(cell: Any) -> list[str]:
    """A row's choices: a list, a list in JSON, or "one ||| another"; raises ValueError where there are not two."""
    listed = cell
    if isinstance(cell, str):
        parsed = _json_list(cell)
        listed = [part.strip() for part in cell.split(CHOICE_SEPARATOR)] if parsed is None else parsed
    if not isinstance(listed, list | tuple) or len(listed) < 2:
        raise ValueError(f"{cell!r} is no list of choices: a JSON list, or 'one ||| another'")
    choices = [spelled(choice) for choice in listed]
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
    """`label` of a data set's YAML."""
    try:
        validated(label, _Label)
    except ValueError as error:
        raise UserError(f"dataset.label of {dataset}: {error}.") from error
    if label.get("choices") is not None:
        if label.get("by") not in WAYS:
            raise unknown("value", label.get("by"), WAYS, "dataset.label.by=")
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
