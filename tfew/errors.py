"""The one exception for what a user can fix: bad input, a missing file, an option that does not exist."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """One clear sentence on one line: the bad value, the valid values, the setting to change.

    It may quote a file's content: line breaks and control characters become escapes.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


def printable(text: str) -> str:
    """The text with escapes (`\\n`) for characters that are not printable."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def nearest(value: object, known: Iterable[object]) -> str | None:
    """The member of `known` with the most similar spelling, ignoring case; None if none is close."""
    by_spelling = {str(name).casefold().strip(): str(name) for name in known}
    near = get_close_matches(str(value).casefold().strip(), by_spelling, n=1)
    return by_spelling[near[0]] if near else None


def unknown_value_error(kind: str, value: object, known: Iterable[object], setting: str) -> UserError:
    """The error for a `kind` of value that is not one of `known`; suggests the closest one, if any is close."""
    names = [str(name) for name in known]
    near = nearest(value, names)
    hint = "" if near is None else f" Did you mean {near!r}?"
    listing = ", ".join(repr(name) for name in names) or "none"
    return UserError(f"Unknown {kind} {value!r} ({setting}).{hint} Known: {listing}.")


def shorten_list(names: Iterable[str], limit: int = 8) -> str:
    """The first `limit` of the names, sorted, for a message."""
    listed = sorted(names)
    rest = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return (", ".join(listed[:limit]) or "none") + rest
