"""Content-free rows: calibrated scoring measures the bias of the prompt template with them (Zhao et al. 2021)."""

from collections.abc import Sequence
from dataclasses import replace

from tfew.errors import UserError
from tfew.schema import Example, Prompt

CONTENT_FREE = "N/A"  # Zhao et al.'s
MAX_CATEGORIES = 10  # a column with at most this many values may select the template's wording (COPA's cause or effect)


def content_columns(examples: Sequence[Example], columns: Sequence[str]) -> list[str]:
    """The columns, of those given (empty: of all), whose text differs from row to row.

    Raises UserError if there is none.
    """
    found = []
    for column in columns or examples[0].fields:
        values = [example.fields.get(column) for example in examples]
        if all(isinstance(value, str) for value in values) and len(set(values)) > min(MAX_CATEGORIES, len(values) / 2):
            found.append(column)
    if not found:
        raise UserError(
            f"score.method=calibrated: no column of these {len(examples)} rows holds text that differs from row to row,"
            " so no content-free prompt can be made; use score.method=direct."
        )
    return found


def content_free_example(example: Example, columns: Sequence[str]) -> Example:
    """The example with `CONTENT_FREE` in these columns, and no label."""
    return replace(example, fields={**example.fields, **dict.fromkeys(columns, CONTENT_FREE)}, label=None)


def with_content_free(prompt: Prompt, rendered: Prompt | None) -> Prompt:
    """The prompt, with the input of the content-free row's prompt added to it; its choices are kept."""
    if rendered is None:
        raise UserError(
            f"Template {prompt.template!r} of {prompt.dataset} renders nothing for a row whose texts are"
            f" {CONTENT_FREE!r}, and score.method=calibrated needs that: choose other templates (templates=)."
        )
    return replace(prompt, content_free=rendered.input)
