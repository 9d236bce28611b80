"""A data set as its YAML declares it, and the rule that turns a raw row into an `Example`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from tfew.errors import UserError
from tfew.schema import Example


@dataclass(frozen=True)
class LabelRule:
    """How a row's label becomes the index of the right choice.

    `column` holds it. `names` are its spellings per index, as distributed; a number (or digits) counts from
    `first`, which is the Hub's numbering; a boolean counts false 0, true 1.
    """

    column: str
    names: tuple[tuple[str, ...], ...]
    first: int = 0

    def index(self, value: Any) -> int:
        """Raises ValueError with the good values."""
        if isinstance(value, bool):
            index = int(value)
        elif isinstance(value, int) or (isinstance(value, str) and value.strip().isdigit()):
            index = int(value) - self.first
        else:
            index = next((i for i, names in enumerate(self.names) if value in names), -1)
        if not 0 <= index < len(self.names):
            good = ", ".join(f"{i + self.first} ({'/'.join(names)})" for i, names in enumerate(self.names))
            raise ValueError(f"label {value!r} in column {self.column!r} is none of {good}")
        return index


@dataclass(frozen=True)
class DatasetSpec:
    """One file of `configs/dataset/`; every key is explained in `configs/dataset/rte.yaml`.

    `label` None: the rows' labels are the templates' business, the right choice is the one a template gives as target.
    """

    name: str
    official_name: str
    paper_name: str
    columns: tuple[str, ...]
    label: LabelRule | None
    prompts: str | Sequence[Mapping[str, Any]]
    train_templates_first: int | None
    shots: int
    hub: Mapping[str, Any] | None
    files: Mapping[str, Sequence[str]]
    rows: Mapping[str, int | None]
    generator: Mapping[str, Any] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    bring: str | None = None
    rate: float = 1
    leave_out: Sequence[str] = ()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DatasetSpec:
        rule = None if config["label"] is None else cls._label_rule(config["name"], config["label"])
        return cls(**{**config, "columns": tuple(config["columns"]), "label": rule})

    @staticmethod
    def _label_rule(name: str, label: Mapping[str, Any]) -> LabelRule:
        names = tuple(tuple(n) if isinstance(n, list) else (n,) for n in label["names"])
        if not all(isinstance(name, str) for group in names for name in group):
            raise UserError(
                f"dataset.label.names of {name} holds something that is not text: {label['names']}."
                " Quote it: YAML reads a bare yes, no, on or off as a boolean."
            )
        return LabelRule(label["column"], names, label["first"])

    def examples(self, rows: Sequence[Mapping[str, Any]], where: str) -> Sequence[Example]:
        """Rows of one file or split as examples; `where` names it in errors.

        A list is checked as a whole, now. Any other sequence may be large or computed row by row, and stays so: each
        row is read and checked when it is asked for.
        """
        if not len(rows):
            raise UserError(f"{where} holds no rows.")
        if not isinstance(rows, list):
            return _Examples(self, rows, where)
        examples = [self.example(number, row, where) for number, row in enumerate(rows)]
        seen: set[int] = set()
        for number, example in enumerate(examples, start=1):
            if example.idx in seen:
                raise UserError(f"{where}, row {number}: idx {example.idx} stands in an earlier row, too.")
            seen.add(example.idx)
        return examples

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The labels as the data spell them, by index; None where rows have choices of their own."""
        return None if self.label is None else tuple(names[0] for names in self.label.names)

    def example(self, number: int, row: Mapping[str, Any], where: str, labelled: bool = True) -> Example:
        """Row `number` (from 0) of `where` as an example; its `idx` is its own, else this number.

        `labelled` False: a row to predict. It needs no label, and one that it has is not looked at.
        """
        fields = {self.rename.get(key, key): value for key, value in row.items()}
        rule = self.label if labelled else None
        if self.label is not None and rule is None:
            fields.pop(self.label.column, None)
        needed = {*self.columns, *([rule.column] if rule else [])}
        if missing := sorted(needed - fields.keys()):
            raise UserError(
                f"{where}, row {number + 1} lacks {', '.join(map(repr, missing))}; it has {', '.join(sorted(fields))}."
            )
        if empty := sorted(column for column in needed if fields[column] is None):
            raise UserError(f"{where}, row {number + 1}: {', '.join(map(repr, empty))} is null.")
        label = self._label(rule, fields, f"{where}, row {number + 1}")
        for column, kind in self.types.items():
            if column in fields:
                fields[column] = _as_type(fields[column], kind, f"{where}, row {number + 1}, column {column!r}")
        fields.setdefault("idx", number)
        if label is not None:
            fields.setdefault("label", label)
            if rule and rule.column == "label" and "label" not in self.types:
                fields["label"] = label  # promptsource's templates index choices with it
        idx = _as_type(fields["idx"], "int", f"{where}, row {number + 1}, column 'idx'")
        return Example(idx=idx, fields=fields, label=label)

    def _label(self, rule: LabelRule | None, fields: Mapping[str, Any], where: str) -> int | None:
        try:
            return None if rule is None else rule.index(fields[rule.column])
        except ValueError as error:
            raise UserError(f"{where}: {error}.") from error


class _Examples(Sequence[Example]):
    """Examples of a sequence that is read row by row."""

    def __init__(self, spec: DatasetSpec, rows: Sequence[Mapping[str, Any]], where: str) -> None:
        self.spec, self.rows, self.where = spec, rows, where

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, key: int) -> Example: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[Example]: ...
    def __getitem__(self, key: int | slice) -> Example | Sequence[Example]:
        if isinstance(key, slice):
            return [self[number] for number in range(*key.indices(len(self)))]
        number = range(len(self))[key]
        return self.spec.example(number, self.rows[number], self.where)

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))


def _as_type(value: Any, kind: str, where: str) -> Any:
    try:
        if kind == "list" and not isinstance(value, list):
            raise ValueError
        return {"int": int, "str": str, "list": list}[kind](value)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {value!r} is not {kind}.") from error
