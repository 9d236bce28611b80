"""A data set as its YAML declares it, and the rule that turns a raw row into an `Example`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, overload

from tfew.data.cells import cell_text, gathered, is_missing, not_text, not_text_error
from tfew.data.labels import LabelRule, LabelSetRule, Rule, label_rule, parse_choices
from tfew.errors import UserError, nearest, shorten_list
from tfew.files.untrusted import validated
from tfew.schema import Example

LEAST_CHOICES = 2  # of a row with choices of its own


@dataclass(frozen=True)
class DatasetSpec:
    """One file of `configs/dataset/`; `rte.yaml` there explains the keys, `local.yaml` those of a user's table.

    `label` None: rows have no label column, and the right choice is the target that the template renders.
    """

    name: str
    official_name: str
    paper_name: str
    columns: tuple[str, ...]
    label: Rule | None
    prompts: str | Sequence[Any] | None  # see `load_templates`; None: not filled in yet (`tfew.dataset_config`)
    train_templates_first: int | None
    shots: int | None
    hub: Mapping[str, Any] | None
    files: Mapping[str, Sequence[Any]]  # file names, or lists of files to read one after the other
    rows: Mapping[str, int | None]
    generator: Mapping[str, Any] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    bring: str | None = None
    rate: float = 1
    leave_out: Sequence[str] = ()
    classes: bool = False
    held_out: Mapping[str, Any] | None = None
    may_be_empty: Sequence[str] = ()
    layout: Mapping[str, Any] | None = None
    table: Mapping[str, Any] | None = None
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)  # column -> columns whose cells it gathers
    takes_unknown_labels: bool = False
    answers: Sequence[str] = ("no", "yes")  # per label, where rows may have several labels

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DatasetSpec:
        """Raises UserError for unknown or missing keys, and for values of a wrong type."""
        known = {field.name: field.default is MISSING and field.default_factory is MISSING for field in fields(cls)}
        if wrong := {*(config.keys() - known), *(name for name, needed in known.items() if needed) - config.keys()}:
            raise UserError(
                f"dataset has unknown or missing keys: {shorten_list(map(str, wrong))}; its keys: {', '.join(known)}."
            )
        rule = None if config["label"] is None else label_rule(str(config["name"]), config["label"])
        columns = config["columns"]
        listed = {"columns": tuple(columns)} if isinstance(columns, list) else {}
        try:
            return validated(cls(**{**config, **listed, "label": rule}))
        except ValueError as error:
            raise UserError(f"dataset.{error}.") from error

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The labels as spelled in the data, by index; None if each row has choices of its own."""
        if isinstance(self.label, LabelSetRule):
            return self.label.names
        return tuple(names[0] for names in self.label.names) if isinstance(self.label, LabelRule) else None

    def row_number(self, example: Example) -> int:
        """An example's row in messages; those of a user's own table count from 1."""
        return example.idx + (self.table is not None)

    def renamed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row by the names in templates; a renamed column replaces another one that has its new name."""
        taken = {self.rename[column] for column in row if column in self.rename}
        return {
            self.rename.get(column, column): value
            for column, value in row.items()
            if column in self.rename or column not in taken
        }

    def check_columns(self, needed: Iterable[str], columns: Iterable[Any], where: str) -> None:
        """Raises UserError, which suggests the nearest names, if needed columns are missing after renaming."""
        columns = list(columns)
        needed = {part for name in needed for part in self.lists.get(name, [name])[:LEAST_CHOICES]}
        if missing := sorted(needed - {self.rename.get(column, column) for column in columns}):
            spelt = {new: old for old, new in self.rename.items()}
            renaming = "text=NAME" if self.table is not None else "'+dataset.rename={NAME: COLUMN}'"
            raise missing_columns_error(where, [spelt.get(name, name) for name in missing], columns, renaming)

    def examples(self, rows: Sequence[Mapping[str, Any]], where: str, labelled: bool = True) -> Sequence[Example]:
        """Rows of one file or split as examples; `where` names it in errors.

        A list is checked at once. Any other sequence may be large, or computed row by row: its rows are read and
        checked lazily.
        """
        if not len(rows):
            raise UserError(f"{where} holds no rows.")
        if not isinstance(rows, list):
            return _LazyExamples(self, rows, where, labelled)
        examples = [self.example(number, row, where, labelled) for number, row in enumerate(rows)]
        seen: set[int] = set()
        for number, example in enumerate(examples, start=1):
            if example.idx in seen:
                raise UserError(f"{where}, row {number}: an earlier row has idx {example.idx}, too.")
            seen.add(example.idx)
        return examples

    def example(self, number: int, row: Mapping[str, Any], where: str, labelled: bool = True) -> Example:
        """Row `number` (from 0) of `where` as an example; its `idx` is the row's own, else this number.

        `labelled` False: a row to predict. It needs no label, and a label that it has is ignored.
        """
        where = f"{where}, row {number + 1}"
        fields = self.renamed(row)
        rule = self.label if labelled else None
        if self.label is not None and rule is None:
            for column in self.label.columns:
                fields.pop(column, None)
        needed = {*self.columns, *(rule.columns if rule else ())}
        self.check_columns(needed, row, where)
        for column, parts in self.lists.items():
            fields[column] = _convert([fields.get(part) for part in parts], "gathered", where)
        may_be_none = rule.columns if isinstance(rule, LabelSetRule) else ()
        self._check_filled(fields, needed.difference(may_be_none), where)
        for column, kind in self.types.items():
            if column in fields:
                fields[column] = _convert(fields[column], kind, f"{where}, column {column!r}")
        label, unknown_label = self._label(rule, fields, where)
        fields.setdefault("idx", number)
        if label is not None:
            fields.setdefault("label", label)
            if rule and rule.column == "label" and "label" not in self.types:
                fields["label"] = label  # promptsource's templates index choices with it
        idx = _convert(fields["idx"], "int", f"{where}, column 'idx'")
        labels, others = self._label_set(rule, fields, where)
        return Example(idx, fields, label, unknown_label, labels, others)

    def _label(self, rule: Rule | None, fields: Mapping[str, Any], where: str) -> tuple[int | None, str | None]:
        """The index of the label; or its name, if it is unknown and unknown labels are allowed."""
        if isinstance(rule, LabelSetRule):
            return None, None
        try:
            return None if rule is None else rule.choice_index(fields), None
        except ValueError as error:
            if self.takes_unknown_labels and isinstance(rule, LabelRule) and not_text(fields[rule.column]) is None:
                return None, cell_text(fields[rule.column])
            raise UserError(f"{where}: {error}.") from error

    def _label_set(
        self, rule: Rule | None, fields: Mapping[str, Any], where: str
    ) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
        """Where a row may have several labels: the indices of its labels, and its unknown labels, if allowed."""
        if not isinstance(rule, LabelSetRule):
            return None, ()
        try:
            found, others = rule.label_set(fields)
        except ValueError as error:
            raise UserError(f"{where}: {error}.") from error
        if others and not self.takes_unknown_labels:
            listing = shorten_list(map(repr, others))
            raise UserError(f"{where}: {listing} in column {rule.column!r} is none of {', '.join(rule.names)}.")
        return found, others

    def _check_filled(self, fields: dict[str, Any], needed: set[str], where: str) -> None:
        """Raises UserError for empty columns; null becomes "" in those that may be empty, but for one."""

        def is_empty(value: Any) -> bool:
            return value is None or (self.table is not None and is_missing(value))

        for column in self.may_be_empty:
            fields[column] = "" if is_empty(fields[column]) else fields[column]
        may_be_empty = [fields[column] for column in self.may_be_empty]
        if self.table is not None and may_be_empty and all(value == "" for value in may_be_empty):
            raise UserError(f"{where}: all of {', '.join(map(repr, self.may_be_empty))} are empty.")
        for column in sorted(needed):
            value = fields[column]
            if column not in self.may_be_empty and is_empty(value):
                raise UserError(f"{where}: {column!r} is {'null' if value is None else 'empty'}.")
            is_text = self.table is not None and self.types.get(column, "text") == "text"
            if is_text and (kind := not_text(value)) is not None:
                raise not_text_error(where, column, value, kind)


def missing_columns_error(where: str, missing: Sequence[str], columns: Sequence[Any], renaming: str) -> UserError:
    """`columns`: those that exist; `renaming`: the option that maps a column to the expected name."""
    near = [found for name in missing if (found := nearest(name, columns)) is not None]
    hint = f" (did you mean {', '.join(map(repr, near))}?)" if near else ""
    has = f"it has {', '.join(map(repr, columns))}" if columns else "it has no columns at all"
    renaming = renaming.replace("NAME", near[0] if near else "NAME").replace("COLUMN", missing[0])
    return UserError(
        f"{where} lacks {', '.join(map(repr, missing))}; {has}{hint}. If a column only has another name here, set"
        f" {renaming}."
    )


class _LazyExamples(Sequence[Example]):
    """Examples of a sequence whose rows are read on access."""

    def __init__(self, spec: DatasetSpec, rows: Sequence[Mapping[str, Any]], where: str, labelled: bool) -> None:
        self.spec, self.rows, self.where, self.labelled = spec, rows, where, labelled

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
        return self.spec.example(number, self.rows[number], self.where, self.labelled)

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))


def _convert(value: Any, kind: str, where: str) -> Any:
    """`kind`: int, str, text (by `cell_text`), list, choices (answer choices, possibly written in one cell), or
    gathered (a list without trailing empty cells)."""
    try:
        if kind == "gathered":
            return gathered(value)
        if kind == "text":
            return cell_text(value)
        if kind == "list" and not isinstance(value, list):
            raise ValueError
        if kind == "choices":
            return parse_choices(value)
        return {"int": int, "str": str, "list": list}[kind](value)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{where}: {error if kind in ('choices', 'gathered') else f'{value!r} is not {kind}'}."
        ) from error
