"""A family of tasks: a function from a random source to one row, and the split that a row belongs to."""

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tfew.errors import unknown_value_error
from tfew.mini_t0.lexicon import FILLERS

Row = dict[str, Any]
MAX_DRAWS = 10_000

# eighths of all content: no content of one split occurs in another
SPLITS = {"train": range(0, 4), "validation": range(4, 5), "eval": range(5, 8)}


@dataclass(frozen=True)
class Family:
    """`row` draws the fields for templates, with `label`; `content` is what must not occur in two splits."""

    name: str
    row: Callable[[random.Random], Row]
    content: Callable[[Row], str]


class Rows(Sequence[Row]):
    """The first `count` rows of one split of a family; row i is a pure function of (family, split, seed, i)."""

    def __init__(self, family: Family, split: str, seed: int, count: int) -> None:
        self.family, self.split, self.seed, self._count = family, split, seed, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        if not 0 <= index < self._count:
            raise IndexError(index)
        source = random.Random(f"{self.family.name}/{self.split}/{self.seed}/{index}")
        for _ in range(MAX_DRAWS):
            row = self.family.row(source)
            if content_bucket(self.family, row) in SPLITS[self.split]:
                return add_padding(row, source)
        raise AssertionError(f"{self.family.name} has no content for the split {self.split}")


def content_bucket(family: Family, row: Row) -> int:
    """The eighth of all content that this row belongs to, by a hash."""
    return zlib.crc32(f"{family.name}/{family.content(row)}".encode()) % 8


class Registry(dict[str, Family]):
    """Families by name, filled by a decorator."""

    def family(
        self, content: Callable[[Row], str] = repr
    ) -> Callable[[Callable[[random.Random], Row]], Callable[[random.Random], Row]]:
        def register(row: Callable[[random.Random], Row]) -> Callable[[random.Random], Row]:
            self[row.__name__] = Family(row.__name__, row, content)
            return row

        return register

    def lookup(self, name: str) -> Family:
        if name not in self:
            raise unknown_value_error("family", name, self, "dataset.generator.family=")
        return self[name]


FAMILIES = Registry()


def choices(source: random.Random, right: str, wrong: Sequence[str], count: int = 4) -> Row:
    """`choices` in random order, and `label`, the index of the right one; wrong ones are drawn without repetition."""
    others = sorted({text for text in wrong if text != right})
    listed = [right, *source.sample(others, min(count - 1, len(others)))]
    source.shuffle(listed)
    return {"choices": listed, "label": listed.index(right)}


def filler_words(source: random.Random, limit: int = 4) -> str:
    """0 to `limit` words that mean nothing."""
    return " ".join(source.sample(FILLERS, source.randint(0, limit)))


def add_padding(row: Row, source: random.Random) -> Row:
    """The row with `lead` and `tail`, which templates of training families put around their question.

    Mostly empty, else words that mean nothing: the model learns to ignore unknown words around a question.
    """
    lead, tail = (filler_words(source, 4) if source.random() < 0.3 else "" for _ in range(2))
    mark = source.choice((":", ",", "."))
    return {
        **row,
        "lead": f"{lead}{mark} " if lead else "",
        "tail": f" {tail}{source.choice(('?', ':', '.'))}" if tail else "",
    }


def listing(words: Sequence[str], last: str = "and") -> str:
    """ "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def sentences(parts: Sequence[str]) -> str:
    return " ".join(f"{text}." for text in parts)
