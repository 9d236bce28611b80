"""The one exception for what a user can mend: bad input, a missing file, an option that does not exist."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """One clear sentence on one line: the bad value, the good values, the knob to turn.

    It may quote what stands in a file. A line break there, or what a terminal would act on, is shown as an escape.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


def printable(text: str) -> str:
    """With escapes (`\\n`) for what is no visible character."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def unknown(what: str, bad: object, good: Iterable[object], knob: str) -> UserError:
    """The error for a value that is not one of `good`; names the nearest good value if one is near."""
    names = [str(name) for name in good]
    near = get_close_matches(str(bad), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listing = ", ".join(repr(name) for name in names) or "none"
    return UserError(f"Unknown {what} {bad!r} ({knob}).{hint} Known: {listing}.")


def some(names: Iterable[str], most: int = 8) -> str:
    """The first few of many names, for a message."""
    listed = sorted(names)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "none") + rest
