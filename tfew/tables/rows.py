"""The interface of streams of rows: rows and positions."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class StreamPosition:
    """Rows, lines and bytes read so far; if a file has no lines, `line` and `offset` count rows, too."""

    row: int = 0
    line: int = 0
    offset: int = 0


@dataclass(frozen=True)
class StreamedRow:
    """A row, and the position after it; if it cannot be read: `row` None, `problem` the reason, `text` its lines."""

    place: StreamPosition
    row: Row | None
    problem: str | None = None
    text: str = ""


class RowStream(ABC):
    """`StreamPosition.offset` runs up to `size`, None if unknown. `columns`: None if each row names its own."""

    size: int | None = None
    columns: Sequence[str] | None = None
    has_lines = True

    @property
    def notes(self) -> Sequence[str]:
        """What is unusual about how the file is read, in words; more may be found while it is read."""
        return ()

    @property
    def formats(self) -> Mapping[str, Mapping[str, Any]]:
        """The same in the form of `dataset.formats`."""
        return {}

    @abstractmethod
    def rows(self, start: StreamPosition) -> Iterator[StreamedRow]:
        """The rows after `start`; standard input ignores `start` and yields all its rows."""

    @abstractmethod
    def close(self) -> None: ...
