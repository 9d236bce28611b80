"""Rows that wait to be labelled: one thread labels what has come in meanwhile, of all tasks and requests, together.

While the model works on a batch, rows gather; the next batch is what has gathered. So a single request waits for
nobody, and under load batches are large by themselves. Rows are answered in the order in which they came.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tfew.errors import UserError

if TYPE_CHECKING:
    from tfew.prediction.predictor import Predictor, Prepared
    from tfew.prediction.task_predictor import Labelled


@dataclass(frozen=True)
class Answer:
    """A row's label, and the row as the model was shown it."""

    labelled: "Labelled"
    prepared: "Prepared"


class FullError(Exception):
    """So many rows wait already that no more are taken."""


class ClosedError(Exception):
    """The service is ending and takes nothing more."""


@dataclass(eq=False)
class _Work:
    rows: Sequence[tuple[str | None, Any]]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[list[Answer | UserError]]"
    began: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class _Call:
    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"


class LabelQueue:
    """`most_waiting`: rows that may wait; `batch_rows`: rows that are labelled at a time, about.

    `observe(rows, seconds)` is told of every batch.
    """

    def __init__(
        self,
        predictor: "Predictor",
        most_waiting: int,
        batch_rows: int,
        observe: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        self.predictor = predictor
        self.most_waiting, self.batch_rows = most_waiting, batch_rows
        self.closing = False
        self._observe = observe
        self._waiting: deque[_Work | _Call] = deque()
        self._unanswered = 0  # rows that were taken and have no answer yet
        self._accepted = 0  # requests, each of one part or several
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="labelling", daemon=True)
        self._thread.start()

    @property
    def unanswered(self) -> int:
        return self._unanswered

    @property
    def ended(self) -> bool:
        """Whether it was closed, and all that was accepted before is answered."""
        return self.closing and self._accepted == 0

    @contextmanager
    def accepted(self) -> Iterator[None]:
        """Around a request, whose rows are then labelled even if the queue closes. Raises ClosedError where it is."""
        with self._changed:
            if self.closing:
                raise ClosedError
            self._accepted += 1
        try:
            yield
        finally:
            with self._changed:
                self._accepted -= 1
                self._changed.notify()

    async def label(self, rows: Sequence[tuple[str | None, Any]]) -> list[Answer | UserError]:
        """(Task, row) each; answers in the same order. Raises FullError where they are not taken.

        To be called within `accepted`.
        """
        loop = asyncio.get_running_loop()
        work = _Work(rows, loop, loop.create_future())
        with self._changed:
            if self._unanswered + len(rows) > self.most_waiting:
                raise FullError
            self._unanswered += len(rows)
            self._waiting.append(work)
            self._changed.notify()
        return await work.future

    async def call(self, function: Callable[[], Any]) -> Any:
        """Runs the function between two batches: the predictor is for one thread at a time. Within `accepted`."""
        loop = asyncio.get_running_loop()
        call = _Call(function, loop, loop.create_future())
        with self._changed:
            self._waiting.append(call)
            self._changed.notify()
        return await call.future

    def close(self) -> None:
        """Accepts nothing more; what was accepted is answered. Safe in a signal handler: the lock is re-entrant."""
        with self._changed:
            self.closing = True
            self._changed.notify()

    def join(self) -> None:
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self.ended:
                    self._changed.wait()
                if not self._waiting:
                    return
                first = self._waiting.popleft()
                batch = self._batch(first) if isinstance(first, _Work) else []
            if isinstance(first, _Call):
                _settle(first.loop, first.future, *_attempt(first.function))
            elif batch:
                self._label(batch)

    def _batch(self, first: _Work) -> list[_Work]:
        """The first and what else there is up to `batch_rows`; whoever gave up waiting is left out."""
        batch, rows = [first], len(first.rows)
        while self._waiting and isinstance(self._waiting[0], _Work):
            following = self._waiting[0]
            if rows + len(following.rows) > self.batch_rows:
                break
            self._waiting.popleft()
            batch.append(following)
            rows += len(following.rows)
        given_up = [work for work in batch if work.future.cancelled()]
        self._unanswered -= sum(len(work.rows) for work in given_up)
        return [work for work in batch if work not in given_up]

    def _label(self, batch: Sequence[_Work]) -> None:
        started = time.monotonic()
        rows = [(number, task, row) for work in batch for number, (task, row) in enumerate(work.rows, start=1)]
        answers, error = _attempt(lambda: answered(self.predictor, rows))
        if error is not None and len(batch) > 1:  # whose it is bears it alone
            for work in batch:
                self._label([work])
            return
        with self._changed:
            self._unanswered -= len(rows)
        self._observe(len(rows), time.monotonic() - started)
        given = iter(answers or [])
        for work in batch:
            result = None if error is not None else [next(given) for _ in work.rows]
            _settle(work.loop, work.future, result, error)


def answered(predictor: "Predictor", rows: Sequence[tuple[int, str | None, Any]]) -> list[Answer | UserError]:
    """(Number from 1, task, row) each; why a row has no label stands in its place."""
    prepared = predictor.prepare(rows)
    good: list[Prepared] = [row for row in prepared if not isinstance(row, UserError)]
    labelled = iter(predictor.answer(good) if good else [])
    return [row if isinstance(row, UserError) else Answer(next(labelled), row) for row in prepared]


def _attempt(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return function(), None
    except Exception as error:  # whoever asked is told; the thread goes on
        return None, error


def _settle(
    loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Any]", result: Any, error: Exception | None
) -> None:
    def settle() -> None:
        if future.done():  # given up meanwhile
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(settle)
