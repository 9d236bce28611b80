"""Fenced blocks of Markdown pages, and the shell commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted({ROOT / "README.md", *(ROOT / "docs").rglob("*.md")} - set((ROOT / "docs/_build").rglob("*.md")))
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]*) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```", re.M | re.S)
PROGRAM = re.compile(r"(?:tfew (?P<command>[a-z_]+)|python -m tfew\.(?P<module>[a-z_]+))(?: |$)")
RUN, NOT_RUN = "run", "not run: "


@dataclass(frozen=True)
class Block:
    """`mark`: the comment above it, such as `run: steps=2` or `not run: it needs a GPU`; "" where there is none."""

    page: Path
    language: str
    text: str
    mark: str

    @property
    def runs(self) -> bool:
        """Whether its commands are to be run; Python is, unless a reason stands above it."""
        return not self.mark.startswith(NOT_RUN) if self.language == "python" else self.mark.startswith(RUN)

    @property
    def more(self) -> list[str]:
        """Settings that make a run short: they are added to each command."""
        return shlex.split(self.mark.removeprefix(RUN).removeprefix(":"))


def blocks(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(page, match["language"], match["text"], match["mark"] or "") for match in found]


def lines(block: Block) -> list[str]:
    """Commands of a shell block, one each; a backslash at the end of a line joins it to the next."""
    joined = re.sub(r"\\\n\s*", " ", block.text)
    return [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def tfew_command(line: str) -> tuple[str, list[str]] | None:
    """Name and arguments of the tfew command in a line, without comments and redirections; None where there is none."""
    last = line.rpartition("|")[2].strip()
    match = PROGRAM.match(last)
    if match is None:
        return None
    words = shlex.split(last[match.end() :], comments=True)
    return match["command"] or match["module"], words[: words.index(">")] if ">" in words else words


def all_blocks() -> Iterator[Block]:
    for page in PAGES:
        yield from blocks(page)
