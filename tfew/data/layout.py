"""The default prompt layout: instruction, list of labels, "Field: text" for each field, and the question, line by line.

T-Few uses it for RAFT (official `src/data/dataset_readers.py`), this project also for a user's own table. The layout is
a Jinja template, so that a run's configuration records the whole prompt.
"""

import re
from collections.abc import Mapping

OPENINGS = re.compile(r"\{[{%#]")
# names that have another meaning in Jinja
RESERVED = {
    "and", "or", "not", "in", "is", "if", "else", "elif", "for", "true", "false", "none", "True", "False", "None",
    "self", "loop", "super", "caller", "varargs", "kwargs", "idx", "answer_choices", "range", "dict", "namespace",
}  # fmt: skip


def layout_template(fields: Mapping[str, str], question: str, instruction: str = "", choices: str | None = None) -> str:
    """The layout as Jinja. `fields`: the name before the colon -> column; a single field may have the name "".

    `choices`: the heading of the list of answer choices; None leaves the list out.
    """
    parts = [escape_jinja(instruction)] if instruction else []
    if choices is not None:
        parts.append(f"{escape_jinja(choices)} {{{{ answer_choices | join(', ') }}}}")
    parts += [
        f"{escape_jinja(name)}: {{{{ {column} }}}}" if name else f"{{{{ {column} }}}}"
        for name, column in fields.items()
    ]
    return "\n".join([*parts, escape_jinja(question)])


def escape_jinja(text: str) -> str:
    """Jinja source that renders exactly this text."""
    return escape_interpolation(OPENINGS.sub(lambda opening: f"{{{{ '{opening[0]}' }}}}", text))


def escape_interpolation(jinja: str) -> str:
    """The same template without "${", which OmegaConf would interpolate."""
    return jinja.replace("${", "{{ '$' }}{")


def humanize(name: str) -> str:
    """A label or column as words: lost_card -> lost card."""
    return " ".join(re.sub(r"_|\. ", " ", name).split())


def template_names(columns: list[str]) -> dict[str, str]:
    """A valid Jinja name for each column whose own name is not one."""
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
