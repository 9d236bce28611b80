"""A row with nothing in it: what calibrated scoring asks a prompt's wording alone (Zhao et al. 2021)."""

from collections.abc import Sequence
from dataclasses import replace

from tfew.errors import UserError
from tfew.schema import Example, Prompt

CONTENT_FREE = "N/A"  # Zhao et al.'s
FEW = 10  # a column of at most so many different values may say which wording is meant (COPA's cause or effect)


def content_columns(examples: Sequence[Example], columns: Sequence[str]) -> list[str]:
    """Which of the columns (none named: of all) hold what rows say: text, different from row to row.

    Raises UserError where none does.
    """
    found = []
    for column in columns or examples[0].fields:
        values = [example.fields.get(column) for example in examples]
        if all(isinstance(value, str) for value in values) and len(set(values)) > min(FEW, len(values) / 2):
            found.append(column)
    if not found:
        raise UserError(
            f"score.method=calibrated: no column of these {len(examples)} rows holds text that differs from row to row,"
            " so there is no prompt without it; use score.method=direct."
        )
    return found


def emptied(example: Example, columns: Sequence[str]) -> Example:
    return replace(example, fields={**example.fields, **dict.fromkeys(columns, CONTENT_FREE)}, label=None)


def with_content_free(prompt: Prompt, rendered: Prompt | None) -> Prompt:
    """The prompt with the input of the emptied row's; the choices stay its own."""
    if rendered is None:
        raise UserError(
            f"Template {prompt.template!r} of {prompt.dataset} renders nothing for a row whose texts are"
            f" {CONTENT_FREE!r}, and score.method=calibrated needs that: choose other templates (templates=)."
        )
    return replace(prompt, content_free=rendered.input)
