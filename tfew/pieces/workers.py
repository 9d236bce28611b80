"""The interface of workers. Each loads the model, describes it, and labels one piece at a time."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tfew.errors import UserError
from tfew.pieces.labeller import Description, PieceLabeller, Refused
from tfew.pieces.manifest import Report
from tfew.pieces.piece import Piece

Answer = Description | Report | Refused


@dataclass(frozen=True)
class Done:
    """A worker has loaded its model (`Description`) or labelled its piece (`Report`), and is free."""

    worker: int
    answer: Description | Report


@dataclass(frozen=True)
class Lost:
    """A worker died, and its piece is lost; a replacement with the same number is starting. `how`: in words."""

    worker: int
    how: str


class Workers(ABC):
    """Numbered from 0. A worker's `Refused` is raised as a UserError."""

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def give(self, worker: int, piece: Piece, columns: Sequence[str] | None) -> None:
        """Gives a piece to a free worker."""

    @abstractmethod
    def wait(self, seconds: float) -> list[Done | Lost]:
        """The events since the last call; waits at most this long for one."""

    @abstractmethod
    def close(self) -> None:
        """Ends all workers, even at work."""


class ThisProcess(Workers):
    """A single worker in this process."""

    def __init__(self, make: Callable[[], PieceLabeller]) -> None:
        self._labeller = make()
        self._waiting: tuple[Piece, Sequence[str] | None] | None = None
        self._is_described = False

    def start(self) -> None:
        pass

    def give(self, worker: int, piece: Piece, columns: Sequence[str] | None) -> None:
        self._waiting = piece, columns

    def wait(self, seconds: float) -> list[Done | Lost]:
        if not self._is_described:
            self._is_described = True
            return [Done(0, accepted(self._labeller.describe()))]
        if self._waiting is None:
            return []
        piece, columns = self._waiting
        self._waiting = None
        return [Done(0, accepted(self._labeller.label(piece, columns)))]

    def close(self) -> None:
        self._labeller.close()


def accepted(answer: Answer) -> Description | Report:
    if isinstance(answer, Refused):
        raise UserError(answer.sentence)
    return answer
