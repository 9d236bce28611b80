"""From a user's table to the section `dataset` of a run: columns, label names, choices, prompt.

What the user does not give is inferred and reported: no run rests on an inference that nobody saw.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfew.data.infer_columns import infer_label_column, infer_label_encoding, infer_text_column
from tfew.data.labels import cell_text
from tfew.data.layout import escape_interpolation, humanize, layout_template, template_names
from tfew.data.templates import InlineTemplate, find_promptsource
from tfew.errors import UserError, shorten_list, unknown_value_error
from tfew.tables.table_reader import Table

GENERIC_NAMES = {"label", "labels", "class", "target", "y"}  # of label columns: they make no question for the prompt
MAX_LISTED = 20  # choices in the default prompt, and labels in a message


@dataclass(frozen=True)
class TableOptions:
    """The command line's options for a table; None: to be inferred.

    choices: the verbalizer ({label: words}, or a list of words), or the column with each row's own choices. template:
    Jinja, or the name of a promptsource collection or of one of its templates.
    """

    text: Sequence[str] | None = None
    label: str | None = None
    choices: str | Sequence[Any] | Mapping[Any, Any] | None = None
    template: str | None = None


@dataclass(frozen=True)
class TableDescription:
    """Keys of the section `dataset`, the columns as the table spells them, and notes on what was inferred.

    single: the promptsource template to use alone, if one was asked for.
    """

    section: dict[str, Any]
    text: list[str]
    label: str
    notes: list[str]
    single: str | None = None


@dataclass(frozen=True)
class _Labels:
    """`names` in the label column, the `words` that verbalize them, and `dataset.label` as `rule`."""

    rule: dict[str, Any]
    names: list[str]
    words: list[str]
    choices_column: str | None  # the column with each row's own choices


def describe_table(table: Table, options: TableOptions) -> TableDescription:
    """Raises UserError if the table does not fit the options, or if something cannot be inferred."""
    choices_column = options.choices if isinstance(options.choices, str) else None
    _check_columns(table, options, choices_column)
    notes: list[str] = []
    label = options.label or infer_label_column(table, _exclude(table.columns, {*(options.text or ()), choices_column}))
    if options.label is None:
        notes.append(f"label={label} (inferred)")
    _check_not_empty(table, [label], "the label ")
    rename = template_names(table.columns)
    if choices_column:
        labels = _row_labels(table, label, choices_column, rename, notes)
    else:
        labels = _class_labels(table, label, options, rename, notes)
    if options.template is None:
        text = list(options.text or [_infer_text(table, {label, choices_column}, notes)])
        prompts: Any = [_default_prompt(text, label, labels, rename)]
        single = None
    else:
        text, prompts, single = _custom_prompts(table, options.template, label, labels, rename)
    if not isinstance(prompts, str):
        notes += _verbalizer_notes(labels)
    text = _exclude(text, {choices_column})
    _check_not_empty(table, text)
    shown = [rename.get(column, column) for column in text]
    choices_field = [rename.get(choices_column, choices_column)] if choices_column else []
    section = {
        "columns": [*shown, *choices_field],
        "label": labels.rule,
        "rename": rename,
        "types": dict.fromkeys(choices_field, "choices"),
        "classes": choices_column is None,
        "may_be_empty": shown if len(shown) > 1 else [],
        "prompts": prompts,
    }
    return TableDescription(section, text, label, notes, single)


def _check_columns(table: Table, options: TableOptions, choices_column: str | None) -> None:
    texts = options.text or ()
    for option, column in [("label", options.label), ("choices", choices_column), *(("text", name) for name in texts)]:
        if column is not None and column not in table.columns:
            raise unknown_value_error("column", column, table.columns, f"{option}=; {table.where}")
    if options.label is not None and options.label in {*texts, choices_column}:
        raise UserError(f"{options.label!r} is the label's column: as text= or choices= it would give the answer away.")


def _check_not_empty(table: Table, columns: Sequence[str], what: str = "") -> None:
    """Raises UserError for a row in which all these columns are empty."""
    for number, row in enumerate(table.rows, start=1):
        if columns and not any(row[column] is not None and cell_text(row[column]) for column in columns):
            names = f"{what}{columns[0]!r} is" if len(columns) == 1 else f"all of {', '.join(columns)} are"
            raise UserError(f"{table.where}, row {number}: {names} empty; fill it in or leave the row out.")


def _infer_text(table: Table, taken: set[str | None], notes: list[str]) -> str:
    free = _exclude(table.columns, taken)
    chosen = infer_text_column(table, free)
    rest = _exclude(free, {chosen})
    notes.append(f"text={chosen} (inferred)" + (f"; the model is not shown {shorten_list(rest)}" if rest else ""))
    return chosen


def _class_labels(
    table: Table, label: str, options: TableOptions, rename: Mapping[str, str], notes: list[str]
) -> _Labels:  # fmt: skip
    """Classes: labels that mean the same in every row."""
    count = Counter(cell_text(row[label]) for row in table.rows)
    if len(count) < 2:
        raise UserError(f"{table.where}: every row has the label {next(iter(count))!r}, so there is nothing to learn.")
    if len(count) == len(table.rows):
        raise UserError(f"{table.where}: no value in {label!r} comes twice; is it the label? Say label=.")
    pairs = _verbalizer(table.classes.get(label) or sorted(count, key=_sort_key), options.choices)
    if unnamed := [name for name in count if name not in pairs]:
        raise UserError(
            f"choices= has no word for the label{'s' * (len(unnamed) > 1)} {shorten_list(map(repr, unnamed))}."
        )
    names, words = list(pairs), list(pairs.values())
    listing = ", ".join(f"{name} {count[name]}" for name in names[:MAX_LISTED])
    notes.append(f"{len(names)} labels in {len(table.rows)} rows: {listing}{', ...' * (len(names) > MAX_LISTED)}")
    first = 0 if label in table.classes else None
    rule = {"column": rename.get(label, label), "names": names, "first": first, "choices": None, "by": None}
    return _Labels(rule, names, words, None)


def _verbalizer(found: list[str], choices: Any) -> dict[str, str]:
    """The words for each label, in the labels' order; a user may list labels that no row has."""
    if choices is None:
        words = [humanize(name) for name in found]
        return dict(zip(found, words if len(set(words)) == len(found) and all(words) else found, strict=True))
    if isinstance(choices, Mapping):
        pairs = {cell_text(name): cell_text(word) for name, word in choices.items()}
    else:
        listed = [cell_text(word) for word in choices]
        if set(found) <= set(listed):
            pairs = {name: humanize(name) for name in listed}
        elif len(listed) == len(found) and _are_consecutive(found):
            pairs = dict(zip(found, listed, strict=True))
        else:
            raise UserError(
                f"choices={listed} does not say which words are for which label: say choices='{{{found[0]}: ...,"
                f" {found[1]}: ...}}', or list the labels {shorten_list(map(repr, found))} themselves."
            )
    if len(set(pairs.values())) < len(pairs) or not all(pairs.values()):
        raise UserError(f"choices= gives two labels the same words, or one none: {pairs}.")
    return pairs


def _verbalizer_notes(labels: _Labels) -> list[str]:
    """A note if words replace the table's labels, or a hint if they should."""
    if labels.words != labels.names:
        return ["the model says " + format_verbalizer(labels.names, labels.words)]
    if labels.names and all(name.isdigit() for name in labels.names):
        first, second = labels.names[:2]
        return [f"words tell a model more than numbers do: choices='{{{first}: ..., {second}: ...}}'"]
    return []


def format_verbalizer(names: Sequence[str], words: Sequence[str]) -> str:
    return ", ".join(f"{word!r} for {name}" for name, word in zip(names, words, strict=True))


def _are_consecutive(names: list[str]) -> bool:
    """Whether these are 0, 1, 2, ... or 1, 2, 3, ...: then a list of words is unambiguous."""
    return names in ([str(number) for number in range(first, first + len(names))] for first in (0, 1))


def _sort_key(name: str) -> tuple[bool, float, str]:
    """Numbers by size, before words."""
    try:
        return (False, float(name), name)
    except ValueError:
        return (True, 0.0, name)


def _row_labels(table: Table, label: str, choices_column: str, rename: Mapping[str, str], notes: list[str]) -> _Labels:
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
    return _Labels(rule, [], [], choices_column)


def _default_prompt(text: Sequence[str], label: str, labels: _Labels, rename: Mapping[str, str]) -> dict[str, Any]:
    """The texts, the choices if they are few, and the question."""
    columns = [rename.get(column, column) for column in text]
    fields = {humanize(name) if len(text) > 1 else "": column for name, column in zip(text, columns, strict=True)}
    asked = humanize(label)
    asks = labels.choices_column is None and asked.lower() not in GENERIC_NAMES
    listed = labels.choices_column is not None or len(labels.words) <= MAX_LISTED
    jinja = layout_template(fields, f"{asked}:" if asks else "Answer:", choices="Choices:" if listed else None)
    return {"name": "default", "jinja": jinja, "answer_choices": _answer_choices(labels, rename), "cut": columns}


def _answer_choices(labels: _Labels, rename: Mapping[str, str]) -> str | list[str]:
    column = labels.choices_column
    return list(labels.words) if column is None else f"{{{{ {rename.get(column, column)} | join(' ||| ') }}}}"


def _custom_prompts(
    table: Table, template: str, label: str, labels: _Labels, rename: Mapping[str, str]
) -> tuple[list[str], Any, str | None]:
    """The columns that `template=` uses, `dataset.prompts`, and the one promptsource template that it names."""
    if "{{" in template or "{%" in template:
        jinja = escape_interpolation(template)
        text = _template_columns(table, InlineTemplate("own", jinja, []).columns, label, rename)
        cut = [rename.get(column, column) for column in text if column != labels.choices_column]
        prompt = {"name": "own", "jinja": jinja, "answer_choices": _answer_choices(labels, rename), "cut": cut}
        return text, [prompt], None
    collection, single, columns = find_promptsource(template)
    given = {"answer_choices", "label"}  # a promptsource template renders its target from them
    text = _template_columns(table, columns - given, label, rename)
    return text, collection, single


def _template_columns(table: Table, columns: Iterable[str], label: str, rename: Mapping[str, str]) -> list[str]:
    """The template's columns as the table spells them; raises UserError for the label's, unknown or no columns."""
    spelling = {rename.get(column, column): column for column in table.columns}
    answer = rename.get(label, label)
    if answer in columns:
        raise UserError(f"template= shows {answer!r}, the label's column: the answer would stand in the question.")
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
