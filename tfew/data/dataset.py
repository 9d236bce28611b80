"""A data set as its YAML declares it, and the rule that turns a raw row into an `Example`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
    """One file of `configs/dataset/`; every key is explained in `configs/dataset/rte.yaml`."""

    name: str
    official_name: str
    paper_name: str
    columns: tuple[str, ...]
    label: LabelRule
    prompts: str | Sequence[Mapping[str, Any]]
    train_templates_first: int | None
    shots: int
    hub: Mapping[str, Any] | None
    files: Mapping[str, Sequence[str]]
    rows: Mapping[str, int | None]
    generator: Mapping[str, Any] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DatasetSpec:
        label = config["label"]
        names = tuple(tuple(n) if isinstance(n, list) else (n,) for n in label["names"])
        if not all(isinstance(name, str) for group in names for name in group):
            raise UserError(
                f"dataset.label.names of {config['name']} holds something that is not text: {label['names']}."
                " Quote it: YAML reads a bare yes, no, on or off as a boolean."
            )
        rule = LabelRule(label["column"], names, label["first"])
        return cls(**{**config, "columns": tuple(config["columns"]), "label": rule})

    def examples(self, rows: Sequence[Mapping[str, Any]], where: str) -> list[Example]:
        """Rows of one file or split as examples; `where` names it in errors."""
        if not rows:
            raise UserError(f"{where} holds no rows.")
        examples = [self._example(number, row, where) for number, row in enumerate(rows)]
        seen: set[int] = set()
        for number, example in enumerate(examples, start=1):
            if example.idx in seen:
                raise UserError(f"{where}, row {number}: idx {example.idx} stands in an earlier row, too.")
            seen.add(example.idx)
        return examples

    def _example(self, number: int, row: Mapping[str, Any], where: str) -> Example:
        fields = {self.rename.get(key, key): value for key, value in row.items()}
        needed = {*self.columns, self.label.column}
        if missing := sorted(needed - fields.keys()):
            raise UserError(
                f"{where}, row {number + 1} lacks {', '.join(map(repr, missing))}; it has {', '.join(sorted(fields))}."
            )
        if empty := sorted(column for column in needed if fields[column] is None):
            raise UserError(f"{where}, row {number + 1}: {', '.join(map(repr, empty))} is null.")
        try:
            label = self.label.index(fields[self.label.column])
        except ValueError as error:
            raise UserError(f"{where}, row {number + 1}: {error}.") from error
        for column, kind in self.types.items():
            fields[column] = _as_type(fields[column], kind, f"{where}, row {number + 1}, column {column!r}")
        fields.setdefault("label", label)
        fields.setdefault("idx", number)
        if self.label.column == "label" and "label" not in self.types:
            fields["label"] = label  # promptsource's templates index choices with it
        idx = _as_type(fields["idx"], "int", f"{where}, row {number + 1}, column 'idx'")
        return Example(idx=idx, fields=fields, label=label)


def _as_type(value: Any, kind: str, where: str) -> Any:
    try:
        if kind == "list" and not isinstance(value, list):
            raise ValueError
        return {"int": int, "str": str, "list": list}[kind](value)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {value!r} is not {kind}.") from error
