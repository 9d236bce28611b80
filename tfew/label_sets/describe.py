"""From a user's table whose rows may have several labels to the section `dataset` of a run.

The counterpart of `tfew.data.describe_table`, which is for tables with one label per row.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tfew.data.cells import cell_text
from tfew.data.describe_table import (
    MAX_LISTED,
    LabelWords,
    TableDescription,
    TableOptions,
    custom_prompts,
    default_prompt,
    infer_text,
    shown_types,
)
from tfew.data.label_column import check_filled, check_texts, named_labels, sort_key, verbalizer, verbalizer_notes
from tfew.data.layout import template_names
from tfew.errors import UserError, shorten_list, unknown_value_error
from tfew.label_sets.recognise import LabelSets
from tfew.tables.table_reader import Table


def describe_label_sets(table: Table, options: TableOptions, sets: LabelSets) -> TableDescription:
    """Raises UserError if the table does not fit the options, or if something cannot be inferred."""
    _check_columns(table, options, sets)
    notes, rename = list(sets.notes), template_names(table.columns)
    labels = _labels(table, options, sets, rename, notes)
    if options.template is None:
        text = list(options.text or [infer_text(table, set(sets.columns), notes)])
        asked = "labels" if sets.of_each else sets.columns[0]
        prompts: Any = [default_prompt(text, asked, labels, rename, options.list_labels)]
    else:
        if not any(mark in options.template for mark in ("{{", "{%")):
            raise UserError(
                f"template={options.template}: promptsource's templates answer with one label, but rows may have"
                " several here: use Jinja, or set multi_label=false."
            )
        text, prompts, _ = custom_prompts(table, options.template, sets.columns[0], labels, rename)
    notes += verbalizer_notes(labels.names, labels.words)
    check_filled(table, text)
    check_texts(table, text)
    shown = [rename.get(column, column) for column in text]
    section = {
        "columns": shown,
        "label": labels.rule,
        "rename": rename,
        "types": shown_types(table, text, rename),
        "classes": True,
        "may_be_empty": shown if len(shown) > 1 else [],
        "prompts": prompts,
        "lists": {},
    }
    return TableDescription(section, text, list(sets.columns) if sets.of_each else sets.columns[0], notes)


def _check_columns(table: Table, options: TableOptions, sets: LabelSets) -> None:
    for column in options.text or ():
        if column not in table.columns:
            raise unknown_value_error("column", column, table.columns, f"text=; {table.where}")
        if column in sets.columns:
            raise UserError(f"{column!r} is the label column: as text= it would leak the answer.")
    if isinstance(options.choices, str):
        raise UserError(
            f"choices={options.choices}: a row with choices of its own has one label, but rows may have several here:"
            " give words for the labels, or set multi_label=false."
        )


def _labels(
    table: Table, options: TableOptions, sets: LabelSets, rename: Mapping[str, str], notes: list[str]
) -> LabelWords:  # fmt: skip
    of_rows = sets.rows
    if options.labels is not None and not sets.of_each:
        flat = [name for row in of_rows for name in row]
        named = iter(named_labels(table, sets.columns[0], flat, options.labels))
        of_rows = [[next(named) for _ in row] for row in of_rows]
    listed = list(sets.columns) if sets.of_each else [cell_text(name) for name in options.labels or ()]
    count, rows = Counter(name for row in of_rows for name in set(row)), len(table.rows)
    if all(count[name] in (0, rows) for name in listed or count):
        every = "has " + " and ".join(map(repr, count)) if count else "is without a label"
        raise UserError(f"{table.where}: every row {every}, so there is nothing to learn.")
    if max(count.values()) == 1 and not listed and rows > 2:
        raise UserError(f"{table.where}: no label in {sets.columns[0]!r} occurs twice; is it the label? Set label=.")
    pairs = verbalizer(listed or sorted(count, key=sort_key), options.choices)
    if unnamed := [name for name in count if name not in pairs]:
        raise UserError(
            f"choices= has no word for the label{'s' * (len(unnamed) > 1)} {shorten_list(map(repr, unnamed))}."
        )
    names, words = list(pairs), list(pairs.values())
    listing = ", ".join(f"{name} {count[name]}" for name in names[:MAX_LISTED])
    without = sum(not row for row in of_rows)
    notes.append(
        f"{len(names)} label{'s' * (len(names) != 1)} in {rows} rows: {listing}{', ...' * (len(names) > MAX_LISTED)};"
        f" {count.total() / rows:.1f} labels a row, {without} row{'s' * (without != 1)} without any"
    )
    columns = [rename.get(name, name) for name in sets.columns]
    rule = {"column": columns[0], "names": names, "first": None, "choices": None, "by": None, "several": True}
    of_each = columns if sets.of_each else []
    return LabelWords({**rule, "separator": sets.separator, "of_each": of_each}, names, words, None)
