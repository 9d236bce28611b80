"""Several labels per row, in the caller's form: lists, texts with a separator, or a yes/no column per label."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfew.data.cells import cell_text, plain
from tfew.data.labels import match_label
from tfew.errors import UserError, shorten_list
from tfew.estimator.classes import Classes
from tfew.estimator.frame import Frame
from tfew.label_sets.recognise import LabelSets, SetOptions, recognise, several


def find_label_sets(labels: Frame, given: Mapping[str, Any]) -> LabelSets | None:
    """None if a row has one label. `given`: settings; `labels=` and the keys of `choices=` name all labels."""
    choices = given.get("choices")
    named = given.get("labels") or (list(json.loads(choices)) if isinstance(choices, str) else None)
    options = SetOptions(
        label=list(labels.columns),
        labels=named,
        several=several(given.get("multi_label", "auto")),
        separator=given.get("separator"),
    )
    return recognise(labels.table(), options)


def as_lists(sets: LabelSets, labels: Frame, given: Mapping[str, Any]) -> tuple[Frame, dict[str, Any]]:
    """A column of lists, and the settings that a run needs for it."""
    told: dict[str, Any] = {"multi_label": True, "separator": sets.separator}
    if sets.of_each:  # including labels without rows
        told["labels"] = list(sets.columns)
    name = "labels" if len(labels.columns) > 1 else next(iter(labels.columns))
    return Frame({name: [list(row) for row in sets.rows]}), {
        **told,
        **{key: given[key] for key in told if key in given},
    }


@dataclass(frozen=True)
class SetsOut:
    """The form of predicted labels: lists of names, or with `of_each` a column per label, ordered as `columns`.

    separator: the one that the caller set. values: by name, the labels of lists that are no texts.
    """

    names: tuple[str, ...]
    columns: tuple[str, ...]
    of_each: bool
    separator: str | None = None
    values: Mapping[str, Any] | None = None

    @property
    def classes(self) -> Classes:
        """In the order of the columns of `predict`."""
        names = self.columns if self.of_each else self.names
        return Classes(np.array(self._spelt(names)), tuple(names))

    def given_back(self, rows: Sequence[Sequence[str]]) -> Any:
        if not self.of_each:
            return list(map(self._spelt, rows))
        return np.array([[int(name in row) for name in self.columns] for row in rows])

    def _spelt(self, names: Sequence[str]) -> list[Any]:
        return [(self.values or {}).get(name, name) for name in names]

    def read(self, labels: Frame) -> list[list[str]]:
        """The names of labels in a form that `fit` and `predict` have; a label that is none of them is kept as it is.

        Raises UserError if there are columns of 0 and 1 whose names, or whose number, is another one.
        """
        given: dict[str, Any] = {"multi_label": True, "separator": self.separator}
        if self.of_each:
            names = [cell_text(name) for name in labels.columns] if labels.is_table else list(self.columns)
            if set(names) != set(self.columns) or len(names) != len(labels.columns):
                raise UserError(
                    f"The labels have the columns {shorten_list(map(repr, labels.columns))}, but in `fit` they had"
                    f" {shorten_list(map(repr, self.columns))}."
                )
            labels = Frame(dict(zip(names, labels.columns.values(), strict=True)))
        else:
            given["labels"] = list(self.names)
        found = find_label_sets(labels, given)
        assert found is not None  # `fit` found several labels per row
        return [[match_label(text, self.names) or text for text in map(cell_text, row)] for row in found.rows]


def values_by_name(labels: Frame) -> dict[str, Any]:
    """The items of lists that are no texts, by the names that they have in a run."""
    cells = next(iter(labels.columns.values())) if len(labels.columns) == 1 else []
    items = [plain(item) for cell in cells if isinstance(cell, list | tuple | set) for item in cell]
    return {cell_text(item): item for item in items if not isinstance(item, str)}


def sets_out(sets: LabelSets, names: Sequence[str], separator: str | None, values: Mapping[str, Any]) -> SetsOut:
    """`names`: the run's label names."""
    return SetsOut(tuple(names), tuple(map(cell_text, sets.columns)), sets.of_each, separator, values)
