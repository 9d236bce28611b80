"""A queue of rows to label: one thread labels the waiting rows of all tasks and requests together.

While the model works on a batch, rows accumulate and become the next batch. So a single request does not wait, and
under load batches grow. Rows are answered in the order of arrival.
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
    """A row's label, and the row as the model saw it."""

    labelled: "Labelled"
    prepared: "Prepared"


class FullError(Exception):
    """Too many rows are waiting already."""


class ClosedError(Exception):
    """The service is shutting down and accepts no requests."""


@dataclass(eq=False)
class _LabelRequest:
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
    """`max_waiting`: rows that may wait; `batch_rows`: rows that are labelled at a time, roughly.

    `observe(rows, seconds)` is called after every batch.
    """

    def __init__(
        self,
        predictor: "Predictor",
        max_waiting: int,
        batch_rows: int,
        observe: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        self.predictor = predictor
        self.max_waiting, self.batch_rows = max_waiting, batch_rows
        self.closing = False
        self._observe = observe
        self._waiting: deque[_LabelRequest | _Call] = deque()
        self._unanswered = 0  # accepted rows without an answer
        self._accepted = 0  # requests in progress
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="labelling", daemon=True)
        self._thread.start()

    @property
    def unanswered(self) -> int:
        return self._unanswered

    @property
    def ended(self) -> bool:
        """Whether it is closed, and all accepted requests are answered."""
        return self.closing and self._accepted == 0

    @contextmanager
    def accept(self) -> Iterator[None]:
        """Wraps a request: its rows are labelled even if the queue closes meanwhile. Raises ClosedError."""
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
        """Answers for (task, row) pairs, in the same order; raises FullError. Call within `accept`."""
        loop = asyncio.get_running_loop()
        work = _LabelRequest(rows, loop, loop.create_future())
        with self._changed:
            if self._unanswered + len(rows) > self.max_waiting:
                raise FullError
            self._unanswered += len(rows)
            self._waiting.append(work)
            self._changed.notify()
        return await work.future

    async def call(self, function: Callable[[], Any]) -> Any:
        """Runs the function between two batches: the predictor is not thread-safe. Call within `accept`."""
        loop = asyncio.get_running_loop()
        call = _Call(function, loop, loop.create_future())
        with self._changed:
            self._waiting.append(call)
            self._changed.notify()
        return await call.future

    def close(self) -> None:
        """Refuses new requests; accepted ones are answered. Safe in a signal handler: the lock is re-entrant."""
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
                batch = self._batch(first) if isinstance(first, _LabelRequest) else []
            if isinstance(first, _Call):
                _resolve(first.loop, first.future, *_try_call(first.function))
            elif batch:
                self._label(batch)

    def _batch(self, first: _LabelRequest) -> list[_LabelRequest]:
        """The first request and those after it, up to `batch_rows` rows, without cancelled ones."""
        batch, rows = [first], len(first.rows)
        while self._waiting and isinstance(self._waiting[0], _LabelRequest):
            following = self._waiting[0]
            if rows + len(following.rows) > self.batch_rows:
                break
            self._waiting.popleft()
            batch.append(following)
            rows += len(following.rows)
        given_up = [work for work in batch if work.future.cancelled()]
        self._unanswered -= sum(len(work.rows) for work in given_up)
        return [work for work in batch if work not in given_up]

    def _label(self, batch: Sequence[_LabelRequest]) -> None:
        started = time.monotonic()
        rows = [(number, task, row) for work in batch for number, (task, row) in enumerate(work.rows, start=1)]
        answers, error = _try_call(lambda: label_rows(self.predictor, rows))
        if error is not None and len(batch) > 1:  # find the request that fails
            for work in batch:
                self._label([work])
            return
        with self._changed:
            self._unanswered -= len(rows)
        self._observe(len(rows), time.monotonic() - started)
        given = iter(answers or [])
        for work in batch:
            result = None if error is not None else [next(given) for _ in work.rows]
            _resolve(work.loop, work.future, result, error)


def label_rows(predictor: "Predictor", rows: Sequence[tuple[int, str | None, Any]]) -> list[Answer | UserError]:
    """Answers for (number from 1, task, row) triples; a row that cannot be labelled has a UserError instead."""
    prepared = predictor.prepare(rows)
    good: list[Prepared] = [row for row in prepared if not isinstance(row, UserError)]
    labelled = iter(predictor.answer(good) if good else [])
    return [row if isinstance(row, UserError) else Answer(next(labelled), row) for row in prepared]


def _try_call(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return function(), None
    except Exception as error:  # goes to the caller; the thread continues
        return None, error


def _resolve(
    loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Any]", result: Any, error: Exception | None
) -> None:
    def resolve() -> None:
        if future.done():  # cancelled meanwhile
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    with suppress(RuntimeError):  # the loop is closed: nobody waits for the result
        loop.call_soon_threadsafe(resolve)
