"""The labels of a classifier: values as the caller spells them, sorted as numpy does, and their names in a run."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfew.data.cells import cell_text, plain, shown
from tfew.data.label_column import check_filled, check_single, label_names
from tfew.errors import UserError, shorten_list
from tfew.estimator.frame import Frame, as_frame

KINDS = {str: "texts", bool: "booleans", int: "numbers", float: "numbers"}


@dataclass(frozen=True)
class Classes:
    """`values_C` of one dtype; `names` as the run has them, in the same order."""

    values_C: np.ndarray
    names: tuple[str, ...]

    def values(self, names: Iterable[str]) -> np.ndarray:
        """The labels of these names."""
        place = {name: place for place, name in enumerate(self.names)}
        return self.values_C[[place[name] for name in names]]


def as_labels(y: Any) -> Frame:
    """One column. A list is always one column, so that lists of labels are not read as several."""
    return Frame({"label": [plain(value) for value in y]}) if isinstance(y, list | tuple) else as_frame(y, "label")


def check_as_many(labels: Frame, rows: int) -> None:
    """Raises UserError unless there are as many labels as `rows`."""
    if len(labels) != rows:
        raise UserError(f"There are {rows} rows but {len(labels)} labels: one per row is needed.")


def check_labels(labels: Frame) -> dict[str, Any]:
    """The labels that occur, by their names in a run; raises UserError for invalid labels."""
    ((name, values),) = labels.columns.items()
    table = labels.table()
    check_filled(table, [name], "the label ")
    check_single(table, name)
    _check_kinds(values)
    by_name: dict[str, Any] = {}
    for value, spelt in zip(values, label_names(table, name)[0], strict=True):
        if by_name.setdefault(spelt, value) != value:
            raise UserError(
                f"The labels {by_name[spelt]!r} and {value!r} differ only in blanks or a decimal point: spell them"
                " alike."
            )
    if len(by_name) == 1:
        raise UserError(f"Every row has the label {values[0]!r}, so there is nothing to learn.")
    return by_name


def _check_kinds(values: Sequence[Any]) -> None:
    """Raises UserError for label types that numpy cannot sort, or would convert to a common one."""
    kinds = {type(value) for value in values}
    if other := [value for value in values if type(value) not in KINDS]:
        raise UserError(
            f"Labels must be texts, whole numbers or booleans, but {shown(other[0])} is of the type"
            f" {type(other[0]).__name__}: convert it with str()."
        )
    if len({KINDS[kind] for kind in kinds}) > 1:
        raise UserError(f"Labels are of several types ({shorten_list(kind.__name__ for kind in kinds)}): choose one.")


def check_named(by_name: dict[str, Any], choices: Any, labels: Any) -> None:
    """Raises UserError where `choices=` or `labels=` name a label without rows of another type than the rest.

    A list of choices names labels if it has all labels of the rows.
    """
    words = [cell_text(plain(word)) for word in choices or ()]
    is_naming = isinstance(choices, Mapping) or set(by_name) <= set(words)
    listed = [cell_text(label) for label in labels] if isinstance(labels, list | tuple) else []
    find_classes(by_name, [*by_name, *(words if is_naming else ()), *listed])


def find_classes(by_name: dict[str, Any], names: Sequence[str]) -> Classes:
    """The classes of a run with labels of these names, including labels without rows."""
    kind = type(next(iter(by_name.values())))
    value_of = {name: by_name[name] if name in by_name else _as_kind(name, kind) for name in names}
    values_C, places = np.unique(np.array(list(value_of.values())), return_index=True)
    listed = list(value_of)
    return Classes(values_C, tuple(listed[place] for place in places))


def _as_kind(name: str, kind: type) -> Any:
    try:
        return json.loads(name) if kind is bool else kind(name)
    except ValueError as error:
        raise UserError(
            f"The label {name!r} has no row, and is not of the rows' label type, {kind.__name__}."
        ) from error


def as_pairs(words: dict[Any, Any]) -> str:
    """Words for labels (`choices=`) as the command line takes them."""
    return json.dumps({cell_text(plain(label)): cell_text(word) for label, word in words.items()}, ensure_ascii=False)
