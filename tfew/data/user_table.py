"""From a table that nothing is known of to the section `dataset` of a run: columns, label names, choices, prompt.

What is not said is guessed, and every guess is told: a run must not rest on one that nobody saw.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfew.data.infer_columns import label_column, text_column, way_of_naming
from tfew.data.labels import spelled
from tfew.data.layout import identifiers, lines, readable, without_dollars
from tfew.data.table import Table
from tfew.data.templates import InlineTemplate, find_promptsource
from tfew.errors import UserError, some, unknown

NO_QUESTION = {"label", "labels", "class", "target", "y"}  # columns whose name asks nothing
MOST_LISTED = 20  # choices that are listed in the default prompt, and labels in a message


@dataclass(frozen=True)
class Wishes:
    """What the command line says; None: to be found out.

    choices: words for the labels ({label: words}, or a list), or the column that holds each row's own. template: Jinja,
    or the name of a promptsource collection or of one of its templates.
    """

    text: Sequence[str] | None = None
    label: str | None = None
    choices: str | Sequence[Any] | Mapping[Any, Any] | None = None
    template: str | None = None


@dataclass(frozen=True)
class Described:
    """Keys of the section `dataset`, the columns in the table's own spelling, and what was guessed, in words.

    single: the promptsource template that alone is wished for.
    """

    section: dict[str, Any]
    text: list[str]
    label: str
    notes: list[str]
    single: str | None = None


@dataclass(frozen=True)
class _Labels:
    """What stands in the column, the words the model is shown for it, and `dataset.label`."""

    rule: dict[str, Any]
    names: list[str]
    words: list[str]
    own: str | None  # the column with each row's own choices


def describe(table: Table, wishes: Wishes) -> Described:
    """Raises UserError where the table does not hold what is wished for, or no guess is good."""
    own = wishes.choices if isinstance(wishes.choices, str) else None
    _check_columns(table, wishes, own)
    notes: list[str] = []
    label = wishes.label or label_column(table, _without(table.columns, {*(wishes.text or ()), own}))
    if wishes.label is None:
        notes.append(f"label={label} (guessed)")
    _check_filled(table, [label], "the label ")
    rename = identifiers(table.columns)
    labels = _own_choices(table, label, own, rename, notes) if own else _classes(table, label, wishes, rename, notes)
    if wishes.template is None:
        text = list(wishes.text or [_guessed_text(table, {label, own}, notes)])
        prompts: Any = [_default_prompt(text, label, labels, rename)]
        single = None
    else:
        text, prompts, single = _wished_prompts(table, wishes.template, label, labels, rename)
    if not isinstance(prompts, str):
        notes += _words_said(labels)
    text = _without(text, {own})
    _check_filled(table, text)
    shown = [rename.get(column, column) for column in text]
    section = {
        "columns": [*shown, *([rename.get(own, own)] if own else [])],
        "label": labels.rule,
        "rename": rename,
        "types": {rename.get(own, own): "choices"} if own else {},
        "classes": own is None,
        "may_be_empty": shown if len(shown) > 1 else [],
        "prompts": prompts,
    }
    return Described(section, text, label, notes, single)


def _check_columns(table: Table, wishes: Wishes, own: str | None) -> None:
    wished = [("label", wishes.label), ("choices", own), *(("text", column) for column in wishes.text or ())]
    for knob, column in wished:
        if column is not None and column not in table.columns:
            raise unknown("column", column, table.columns, f"{knob}=; {table.where}")
    if wishes.label is not None and wishes.label in {*(wishes.text or ()), own}:
        raise UserError(f"{wishes.label!r} is the label's column: as text= or choices= it would give the answer away.")


def _check_filled(table: Table, columns: Sequence[str], what: str = "") -> None:
    """That every row has something in one of these columns."""
    for number, row in enumerate(table.rows, start=1):
        if columns and not any(row[column] is not None and spelled(row[column]) for column in columns):
            names = f"{what}{columns[0]!r} is" if len(columns) == 1 else f"all of {', '.join(columns)} are"
            raise UserError(f"{table.where}, row {number}: {names} empty; fill it in or leave the row out.")


def _guessed_text(table: Table, taken: set[str | None], notes: list[str]) -> str:
    free = _without(table.columns, taken)
    chosen = text_column(table, free)
    rest = _without(free, {chosen})
    notes.append(f"text={chosen} (guessed)" + (f"; the model is not shown {some(rest)}" if rest else ""))
    return chosen


def _classes(
    table: Table, label: str, wishes: Wishes, rename: Mapping[str, str], notes: list[str]
) -> _Labels:  # fmt: skip
    """Labels that mean the same in every row."""
    count = Counter(spelled(row[label]) for row in table.rows)
    if len(count) < 2:
        raise UserError(f"{table.where}: every row has the label {next(iter(count))!r}, so there is nothing to learn.")
    if len(count) == len(table.rows):
        raise UserError(f"{table.where}: no value in {label!r} comes twice; is it the label? Say label=.")
    pairs = _words(table.classes.get(label) or sorted(count, key=_in_order), wishes.choices)
    if unnamed := [name for name in count if name not in pairs]:
        raise UserError(f"choices= has no word for the label{'s' * (len(unnamed) > 1)} {some(map(repr, unnamed))}.")
    names, words = list(pairs), list(pairs.values())
    listing = ", ".join(f"{name} {count[name]}" for name in names[:MOST_LISTED])
    notes.append(f"{len(names)} labels in {len(table.rows)} rows: {listing}{', ...' * (len(names) > MOST_LISTED)}")
    first = 0 if label in table.classes else None
    rule = {"column": rename.get(label, label), "names": names, "first": first, "choices": None, "by": None}
    return _Labels(rule, names, words, None)


def _words(found: list[str], choices: Any) -> dict[str, str]:
    """The words for each label, in the order in which labels are numbered; it may have labels that no row has."""
    if choices is None:
        words = [readable(name) for name in found]
        return dict(zip(found, words if len(set(words)) == len(found) and all(words) else found, strict=True))
    if isinstance(choices, Mapping):
        pairs = {spelled(name): spelled(word) for name, word in choices.items()}
    else:
        listed = [spelled(word) for word in choices]
        if set(found) <= set(listed):
            pairs = {name: readable(name) for name in listed}
        elif len(listed) == len(found) and _counts_up(found):
            pairs = dict(zip(found, listed, strict=True))
        else:
            raise UserError(
                f"choices={listed} does not say which words are for which label: say choices='{{{found[0]}: ...,"
                f" {found[1]}: ...}}', or list the labels {some(map(repr, found))} themselves."
            )
    if len(set(pairs.values())) < len(pairs) or not all(pairs.values()):
        raise UserError(f"choices= gives two labels the same words, or one none: {pairs}.")
    return pairs


def _words_said(labels: _Labels) -> list[str]:
    """Where the model is shown other words than the table's, or had better be."""
    if labels.words != labels.names:
        return ["the model says " + said(labels.names, labels.words)]
    if labels.names and all(name.isdigit() for name in labels.names):
        first, second = labels.names[:2]
        return [f"words tell a model more than numbers do: choices='{{{first}: ..., {second}: ...}}'"]
    return []


def said(names: Sequence[str], words: Sequence[str]) -> str:
    return ", ".join(f"{word!r} for {name}" for name, word in zip(names, words, strict=True))


def _counts_up(names: list[str]) -> bool:
    """Whether these are 0, 1, 2, ... or 1, 2, 3, ...: then a list of words has one order only."""
    return names in ([str(number) for number in range(first, first + len(names))] for first in (0, 1))


def _in_order(name: str) -> tuple[bool, float, str]:
    """Numbers by size, before words."""
    try:
        return (False, float(name), name)
    except ValueError:
        return (True, 0.0, name)


def _own_choices(table: Table, label: str, own: str, rename: Mapping[str, str], notes: list[str]) -> _Labels:
    """Choices that each row brings itself."""
    by, first, in_words = way_of_naming(table, label, own)
    notes.append(f"choices from {own}; {label} gives the right one by {in_words}")
    rule = {
        "column": rename.get(label, label),
        "names": None,
        "first": first,
        "choices": rename.get(own, own),
        "by": by,
    }
    return _Labels(rule, [], [], own)


def _default_prompt(text: Sequence[str], label: str, labels: _Labels, rename: Mapping[str, str]) -> dict[str, Any]:
    """The texts, the choices where they are few, and the question."""
    columns = [rename.get(column, column) for column in text]
    fields = {readable(name) if len(text) > 1 else "": column for name, column in zip(text, columns, strict=True)}
    asked = readable(label)
    asks = labels.own is None and asked.lower() not in NO_QUESTION
    listed = labels.own is not None or len(labels.words) <= MOST_LISTED
    jinja = lines(fields, f"{asked}:" if asks else "Answer:", choices="Choices:" if listed else None)
    return {"name": "default", "jinja": jinja, "answer_choices": _answers(labels, rename), "cut": columns}


def _answers(labels: _Labels, rename: Mapping[str, str]) -> str | list[str]:
    own = labels.own
    return list(labels.words) if own is None else f"{{{{ {rename.get(own, own)} | join(' ||| ') }}}}"


def _wished_prompts(
    table: Table, wished: str, label: str, labels: _Labels, rename: Mapping[str, str]
) -> tuple[list[str], Any, str | None]:
    """Which columns are shown, `dataset.prompts`, and the one promptsource template that is wished for."""
    if "{{" in wished or "{%" in wished:
        wished = without_dollars(wished)
        text = _shown_columns(table, InlineTemplate("own", wished, []).columns, label, rename)
        cut = [rename.get(column, column) for column in text if column != labels.own]
        return text, [{"name": "own", "jinja": wished, "answer_choices": _answers(labels, rename), "cut": cut}], None
    collection, single, columns = find_promptsource(wished)
    given = {"answer_choices", "label"}  # a promptsource template says its target with them
    text = _shown_columns(table, columns - given, label, rename)
    return text, collection, single


def _shown_columns(table: Table, columns: Iterable[str], label: str, rename: Mapping[str, str]) -> list[str]:
    """The table's own spelling of what a template shows; raises UserError for what it must not, or cannot."""
    spelling = {rename.get(column, column): column for column in table.columns}
    answer = rename.get(label, label)
    if answer in columns:
        raise UserError(f"template= shows {answer!r}, the label's column: the answer would stand in the question.")
    good = _without(list(spelling), {answer})
    if missing := sorted(set(columns) - set(good)):
        raise unknown("column", missing[0], good, f"template=; {table.where}")
    if not columns:
        raise UserError(f"template= shows no column: it needs one of {some(good)}, as in '{{{{ {good[0]} }}}}'.")
    return [spelling[name] for name in good if name in columns]


def _without(columns: Sequence[str], taken: set[str | None]) -> list[str]:
    return [column for column in columns if column not in taken]
