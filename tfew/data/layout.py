"""A prompt in lines: an instruction, a list of the possible labels, "Field: text" for each field, and the question.

The layout that T-Few uses for RAFT (official `src/data/dataset_readers.py`), and the default one of a user's own table.
It is made as a Jinja template, so that a run's configuration says in full what the model was shown.
"""

import re
from collections.abc import Mapping

OPENINGS = re.compile(r"\{[{%#]")
# what Jinja reads as something else than a column
RESERVED = {
    "and", "or", "not", "in", "is", "if", "else", "elif", "for", "true", "false", "none", "True", "False", "None",
    "self", "loop", "super", "caller", "varargs", "kwargs", "idx", "answer_choices", "range", "dict", "namespace",
}  # fmt: skip


def lines(fields: Mapping[str, str], question: str, instruction: str = "", choices: str | None = None) -> str:
    """`fields`: what stands before the colon -> column; a single one with no name stands alone.

    `choices`: what the list of the possible answers is called; None leaves it out.
    """
    parts = [as_jinja(instruction)] if instruction else []
    if choices is not None:
        parts.append(f"{as_jinja(choices)} {{{{ answer_choices | join(', ') }}}}")
    parts += [
        f"{as_jinja(name)}: {{{{ {column} }}}}" if name else f"{{{{ {column} }}}}" for name, column in fields.items()
    ]
    return "\n".join([*parts, as_jinja(question)])


def as_jinja(text: str) -> str:
    """Text that Jinja prints as it is."""
    return without_dollars(OPENINGS.sub(lambda opening: f"{{{{ '{opening[0]}' }}}}", text))


def without_dollars(jinja: str) -> str:
    """The same template without "${", which in a configuration means another setting."""
    return jinja.replace("${", "{{ '$' }}{")


def readable(name: str) -> str:
    """A label or column as words: lost_card -> lost card."""
    return " ".join(re.sub(r"_|\. ", " ", name).split())


def identifiers(columns: list[str]) -> dict[str, str]:
    """The columns that a template cannot name, and what they are called instead."""
    taken, renamed = set(columns), {}
    for column in columns:
        if column.isidentifier() and column.isascii() and column not in RESERVED:
            continue
        name = re.sub(r"\W", "_", column, flags=re.ASCII)
        name = name if name.isidentifier() and name not in RESERVED else f"{name}_"
        name = name if name.isidentifier() else f"column_{name}"
        while name in taken:
            name += "_"
        taken.add(name)
        renamed[column] = name
    return renamed
