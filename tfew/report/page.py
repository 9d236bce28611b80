"""HTML templates for pages that load nothing and run no code, whatever texts they contain.

Every text is escaped; characters that could affect the rest of the page (control characters, direction overrides) or
cannot be written to a file (unpaired surrogates) are replaced.
"""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

HERE = Path(__file__).parent
HARMFUL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def page_template(name: str, folder: Path = HERE) -> Template:
    """A template of `folder`, which may include those of this package."""
    environment = Environment(
        loader=FileSystemLoader([folder, HERE]), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=harmless,
    )  # fmt: skip
    environment.filters.update(raised=lambda text: text.replace("^3", "³"), percent=percent, shortened=shortened)
    return environment.get_template(name)


def harmless(value: Any) -> Any:
    """The text (or markup) with characters that no page should hold replaced."""
    return type(value)(HARMFUL.sub("\N{REPLACEMENT CHARACTER}", value)) if isinstance(value, str) else value


def shortened(text: str, characters: int = 80) -> str:
    """The text cut to this length, with a note of how much is missing."""
    left_out = len(text) - characters
    return text if left_out <= 0 else f"{text[:characters]}… ({left_out:,} more characters)"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
