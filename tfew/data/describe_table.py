"""From a user's table to the section `dataset` of a run: columns, label names, choices, prompt.

What the user does not set is inferred and reported, so that no inference goes unnoticed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfew.data.cells import DECIMAL_COMMA, cell_text
from tfew.data.infer_columns import infer_label_column, infer_label_encoding, infer_text_column
from tfew.data.label_column import (
    check_filled,
    check_single,
    check_texts,
    label_names,
    named_labels,
    sort_key,
    verbalizer,
    verbalizer_notes,
)
from tfew.data.layout import escape_interpolation, humanize, layout_template, template_names
from tfew.data.row_choices import infer_choices, list_name, with_list
from tfew.data.templates import OWN, InlineTemplate, find_promptsource
from tfew.errors import UserError, shorten_list, unknown_value_error
from tfew.tables.table_reader import Table

GENERIC_NAMES = {"label", "labels", "class", "target", "y"}  # label columns whose name is no question for the prompt
MAX_LISTED = 20  # choices in the default prompt, and labels in a message


@dataclass(frozen=True)
class TableOptions:
    """The command line's options for a table; None: to be inferred.

    choices: the verbalizer ({label: words}, or a list of words), or the column with each row's own choices, or a list
    of columns with a choice each. template: Jinja, or the name of a promptsource collection or of one of its templates.
    labels: all labels, including those without rows. list_labels: whether the default prompt lists the choices.
    """

    text: Sequence[str] | None = None
    label: str | None = None
    choices: str | Sequence[Any] | Mapping[Any, Any] | None = None
    template: str | None = None
    labels: Sequence[Any] | None = None
    list_labels: bool | None = None


@dataclass(frozen=True)
class TableDescription:
    """Keys of the section `dataset`, the columns as the table spells them, and notes on what was inferred.

    single: the promptsource template to use alone, if one was asked for.
    """

    section: dict[str, Any]
    text: list[str]
    label: str | list[str]
    notes: list[str]
    single: str | None = None


@dataclass(frozen=True)
class LabelWords:
    """`names` in the label column, the `words` that verbalize them, and `dataset.label` as `rule`."""

    rule: dict[str, Any]
    names: list[str]
    words: list[str]
    choices_column: str | None  # the column with each row's own choices


def describe_table(table: Table, options: TableOptions) -> TableDescription:
    """Raises UserError if the table does not fit the options, or if something cannot be inferred."""
    _check_columns(table, options)
    notes: list[str] = []
    label = options.label or infer_label_column(table, _exclude(table.columns, _given(table, options)))
    if options.label is None:
        notes.append(f"label={label} (inferred)")
    check_filled(table, [label], "the label ")
    check_single(table, label)
    chosen = _choices_of_rows(table, label, options, notes)
    choices_column, parts = (chosen, []) if isinstance(chosen, str) else (list_name(table) if chosen else None, chosen)
    if parts:
        table = with_list(table, choices_column or "", parts)
    rename = template_names(table.columns)
    if choices_column:
        labels = _row_labels(table, label, choices_column, rename, notes)
    else:
        labels = _class_labels(table, label, options, rename, notes)
    if options.template is None:
        text = list(options.text or [infer_text(table, {label, choices_column, *parts}, notes)])
        prompts: Any = [default_prompt(text, label, labels, rename, options.list_labels)]
        single = None
    else:
        text, prompts, single = custom_prompts(table, options.template, label, labels, rename)
    if not isinstance(prompts, str):
        notes += verbalizer_notes(labels.names, labels.words)
    text = _exclude(text, {choices_column})
    check_filled(table, text)
    check_texts(table, text)
    shown = [rename.get(column, column) for column in text]
    choices_field = [rename.get(choices_column, choices_column)] if choices_column else []
    section = {
        "columns": [*shown, *choices_field],
        "label": labels.rule,
        "rename": rename,
        "types": {**shown_types(table, text, rename), **dict.fromkeys(choices_field, "choices")},
        "classes": choices_column is None,
        "may_be_empty": shown if len(shown) > 1 else [],
        "prompts": prompts,
        "lists": {choices_field[0]: [rename.get(part, part) for part in parts]} if parts else {},
    }
    return TableDescription(section, text, label, notes, single)


def _given(table: Table, options: TableOptions) -> set[str | None]:
    """The columns that the options name, without the label column."""
    named = options.choices
    listed = [named] if isinstance(named, str) else list(named or ()) if _are_columns(table, named) else []
    return {*(options.text or ()), *listed}


def _are_columns(table: Table, choices: Any) -> bool:
    """Whether `choices=` lists columns with one choice each, rather than words."""
    return isinstance(choices, list | tuple) and len(choices) > 1 and all(name in table.columns for name in choices)


def _check_columns(table: Table, options: TableOptions) -> None:
    choices = options.choices if isinstance(options.choices, str) else None
    for option, column in [("label", options.label), ("choices", choices), *(("text", t) for t in options.text or ())]:
        if column is not None and column not in table.columns:
            raise unknown_value_error("column", column, table.columns, f"{option}=; {table.where}")
    if options.label is not None and options.label in _given(table, options):
        raise UserError(f"{options.label!r} is the label column: as text= or choices= it would leak the answer.")


def _choices_of_rows(table: Table, label: str, options: TableOptions, notes: list[str]) -> str | list[str]:
    """The column of each row's own choices, or the columns with one each; empty if all rows have the same labels.

    Inferred if the user has not set the labels.
    """
    if isinstance(options.choices, str):
        return options.choices
    if isinstance(options.choices, list | tuple) and _are_columns(table, options.choices):
        return list(options.choices)
    if options.choices is not None or options.labels is not None:
        return []
    found = infer_choices(table, label, _exclude(table.columns, {label, *(options.text or ())}))
    if found:
        listed = found if isinstance(found, str) else f"[{','.join(found)}]"
        notes.append(f"choices={listed} (inferred: each row has its own choices)")
    return found or []


def shown_types(table: Table, text: Sequence[str], rename: Mapping[str, str]) -> dict[str, str]:
    """Columns that hold booleans are shown as JSON writes them."""
    return {
        rename.get(column, column): "text"
        for column in text
        if any(isinstance(row[column], bool) for row in table.rows)
    }


def infer_text(table: Table, taken: set[str | None], notes: list[str]) -> str:
    free = _exclude(table.columns, taken)
    chosen = infer_text_column(table, free)
    rest = _exclude(free, {chosen})
    notes.append(f"text={chosen} (inferred)" + (f"; the model is not shown {shorten_list(rest)}" if rest else ""))
    return chosen


def _class_labels(
    table: Table, label: str, options: TableOptions, rename: Mapping[str, str], notes: list[str]
) -> LabelWords:  # fmt: skip
    """Class labels, which mean the same in every row."""
    of_row, spellings = label_names(table, label)
    if options.labels is not None:
        of_row = named_labels(table, label, of_row, options.labels)
    notes += spellings
    count = Counter(of_row)
    if len(count) < 2:
        raise UserError(f"{table.where}: every row has the label {next(iter(count))!r}, so there is nothing to learn.")
    if len(count) == len(table.rows) and options.labels is None:
        raise UserError(f"{table.where}: no value in {label!r} occurs twice; is it the label? Set label=.")
    listed = [cell_text(name) for name in options.labels or ()]
    pairs = verbalizer(listed or table.classes.get(label) or sorted(count, key=sort_key), options.choices)
    if unnamed := [name for name in count if name not in pairs]:
        raise UserError(
            f"choices= has no word for the label{'s' * (len(unnamed) > 1)} {shorten_list(map(repr, unnamed))}."
        )
    names, words = list(pairs), list(pairs.values())
    listing = ", ".join(f"{name} {count[name]}" for name in names[:MAX_LISTED])
    notes.append(f"{len(names)} labels in {len(table.rows)} rows: {listing}{', ...' * (len(names) > MAX_LISTED)}")
    if (number := next(filter(DECIMAL_COMMA.fullmatch, names), None)) is not None:
        notes.append(f"{number!r} is one label, a number with a decimal comma (multi_label=true reads two)")
    first = 0 if label in table.classes else None
    rule = {"column": rename.get(label, label), "names": names, "first": first, "choices": None, "by": None}
    return LabelWords(rule, names, words, None)


def _row_labels(
    table: Table, label: str, choices_column: str, rename: Mapping[str, str], notes: list[str]
) -> LabelWords:
    """Labels that refer to the choices of their own row."""
    by, first, encoding = infer_label_encoding(table, label, choices_column)
    notes.append(f"choices from {choices_column}; {label} gives the right one by {encoding}")
    rule = {
        "column": rename.get(label, label),
        "names": None,
        "first": first,
        "choices": rename.get(choices_column, choices_column),
        "by": by,
    }
    return LabelWords(rule, [], [], choices_column)


def default_prompt(
    text: Sequence[str], label: str, labels: LabelWords, rename: Mapping[str, str], list_labels: bool | None
) -> dict[str, Any]:
    """The texts, the choices if they are few, and the question; `list_labels`: with the choices, or without."""
    columns = [rename.get(column, column) for column in text]
    fields = {humanize(name) if len(text) > 1 else "": column for name, column in zip(text, columns, strict=True)}
    asked = humanize(label)
    asks = labels.choices_column is None and asked.lower() not in GENERIC_NAMES
    listed = labels.choices_column is not None or len(labels.words) <= MAX_LISTED
    listed = listed if list_labels is None else list_labels
    jinja = layout_template(fields, f"{asked}:" if asks else "Answer:", choices="Choices:" if listed else None)
    return {"name": "default", "jinja": jinja, "answer_choices": _answer_choices(labels, rename), "cut": columns}


def _answer_choices(labels: LabelWords, rename: Mapping[str, str]) -> str | list[str]:
    column = labels.choices_column
    return list(labels.words) if column is None else f"{{{{ {rename.get(column, column)} | join(' ||| ') }}}}"


def custom_prompts(
    table: Table, template: str, label: str, labels: LabelWords, rename: Mapping[str, str]
) -> tuple[list[str], Any, str | None]:
    """The columns that `template=` uses, `dataset.prompts`, and the one promptsource template that it names."""
    if "{{" in template or "{%" in template:
        jinja = escape_interpolation(template)
        text = _template_columns(table, InlineTemplate(OWN, jinja, []).columns, label, rename)
        cut = [rename.get(column, column) for column in text if column != labels.choices_column]
        prompt = {"name": OWN, "jinja": jinja, "answer_choices": _answer_choices(labels, rename), "cut": cut}
        return text, [prompt], None
    collection, single, columns = find_promptsource(template)
    given = {"answer_choices", "label"}  # a promptsource template renders its target from them
    text = _template_columns(table, columns - given, label, rename)
    return text, collection, single


def _template_columns(table: Table, columns: Iterable[str], label: str, rename: Mapping[str, str]) -> list[str]:
    """The template's columns as the table spells them; raises UserError for the label, unknown or no columns."""
    spelling = {rename.get(column, column): column for column in table.columns}
    answer = rename.get(label, label)
    if answer in columns:
        raise UserError(f"template= shows {answer!r}, the label column: the prompt would contain the answer.")
    good = _exclude(list(spelling), {answer})
    if missing := sorted(set(columns) - set(good)):
        raise unknown_value_error("column", missing[0], good, f"template=; {table.where}")
    if not columns:
        raise UserError(
            f"template= shows no column: it needs one of {shorten_list(good)}, as in '{{{{ {good[0]} }}}}'."
        )
    return [spelling[name] for name in good if name in columns]


def _exclude(columns: Sequence[str], taken: set[str | None]) -> list[str]:
    return [column for column in columns if column not in taken]
