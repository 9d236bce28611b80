"""What the scripts that measure take on their command lines: numbers and names, each of which may be left out."""

from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from typing import Any


def given(description: str | None, **defaults: int | tuple[str, ...]) -> list[Any]:
    """In the order of the defaults: a number (from 1, where the default is not 0), or one of several names (the first).

    Exits with a sentence where something else is given.
    """
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        if isinstance(default, tuple):
            parser.add_argument(name, nargs="?", choices=default, default=default[0])
        else:
            parser.add_argument(name, nargs="?", type=_positive if default else int, default=default)
    return list(vars(parser.parse_args()).values())


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)
