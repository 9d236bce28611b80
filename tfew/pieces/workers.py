"""Who labels pieces. However they are started, workers load the model, describe it, and take a piece at a time."""

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
    """A worker has loaded its model (`Description`), or labelled its piece (`Report`), and takes another one."""

    worker: int
    answer: Description | Report


@dataclass(frozen=True)
class Lost:
    """A worker is gone, with what it was at; another one, under the same number, is on its way. `how`: in words."""

    worker: int
    how: str


class Workers(ABC):
    """Numbered from 0. What a worker refuses (`Refused`) is raised as a UserError."""

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def give(self, worker: int, piece: Piece, columns: Sequence[str] | None) -> None:
        """To a worker that is done with whatever it had."""

    @abstractmethod
    def wait(self, seconds: float) -> list[Done | Lost]:
        """What has happened; waits so long for anything to happen."""

    @abstractmethod
    def close(self) -> None:
        """Ends all workers, whatever they are at."""


class ThisProcess(Workers):
    """One worker, here."""

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
