"""Several labels per row, in the caller's form: lists, texts with a separator, or a yes/no column per label."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfew.data.cells import cell_text
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
    """The form of predicted labels: lists of names, or with `of_each` a column per label, ordered as `columns`."""

    names: tuple[str, ...]
    columns: tuple[str, ...]
    of_each: bool

    def given_back(self, rows: Sequence[Sequence[str]]) -> Any:
        return self.matrix(rows) if self.of_each else [list(row) for row in rows]

    def matrix(self, rows: Sequence[Sequence[str]]) -> np.ndarray:
        """`[R, K]` of 0 and 1."""
        order = self.columns if self.of_each else self.names
        return np.array([[int(name in row) for name in order] for row in rows])


def sets_out(sets: LabelSets, names: Sequence[str]) -> SetsOut:
    """`names`: the run's label names."""
    return SetsOut(tuple(names), tuple(map(cell_text, sets.columns)), sets.of_each)
