"""What the scripts that measure take on their command lines: a few numbers, each of which may be left out."""

from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter


def parser(description: str | None) -> ArgumentParser:
    return ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)
