"""A queue of rows to label: one thread labels the waiting rows of all clients, tasks and requests in shared batches.

While the model works on a batch, new rows accumulate for the next one. So a single request does not wait, and batches
grow under load. Clients take turns: a batch has some rows of each, so that nobody waits for another's thousand rows.
The rows of one client are answered in order of arrival.
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
from tfew.service.futures import resolve, try_call

if TYPE_CHECKING:
    from tfew.prediction.loaded_task import Prepared
    from tfew.prediction.predictor import Predictor
    from tfew.prediction.task_predictor import Labelled

TURNS = 4  # parts of a batch, given to clients in turn
BATCH_CHARACTERS = 2**20  # of its texts, which are tokenised whole: some seconds; a single row may have more


@dataclass(frozen=True)
class Answer:
    """A row's label, and the row as the model saw it."""

    labelled: "Labelled"
    prepared: "Prepared"


class FullError(Exception):
    """Too many rows are waiting already."""


class ClosedError(Exception):
    """The service is shutting down: new requests are refused, and waiting ones are dropped."""


@dataclass(eq=False)
class _LabelRequest:
    """`characters`: of each row's texts; `taken`: the number of rows that are or were in a batch."""

    client: str
    rows: Sequence[tuple[str | None, Any]]
    characters: Sequence[int]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[list[Answer | UserError]]"
    began: float = field(default_factory=time.monotonic)
    taken: int = 0
    answers: list[Answer | UserError] = field(default_factory=list)

    def take(self, most_rows: int, most_characters: int) -> "_Part":
        """The next rows within these limits, at least one of those left."""
        start, left = self.taken, most_characters
        for size in self.characters[start : start + most_rows]:
            if size > left and self.taken > start:
                break
            self.taken, left = self.taken + 1, left - size
        return _Part(self, start, self.taken)


@dataclass(frozen=True)
class _Part:
    """Rows `start` to `end` of a request, in one batch."""

    request: _LabelRequest
    start: int
    end: int

    @property
    def rows(self) -> list[tuple[int, str | None, Any]]:
        rows = self.request.rows[self.start : self.end]
        return [(number, task, row) for number, (task, row) in enumerate(rows, start=self.start + 1)]


@dataclass(eq=False)
class _Call:
    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"


class LabelQueue:
    """`max_waiting`: the most waiting rows; `batch_rows`: rows per batch.

    A single client may use all of `max_waiting`. Then each other client may still add one request, and up to an equal
    share, while fewer than twice as many rows wait. `observe(rows, seconds)` is called after every batch.
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
        self._waiting: dict[str, deque[_LabelRequest]] = {}  # by client, in the order of their turns
        self._calls: deque[_Call] = deque()
        self._rows_of: dict[str, int] = {}  # accepted rows without an answer
        self._accepted = 0  # requests in progress
        self._running: tuple[float, float] | None = None  # when the batch started, and when its oldest row arrived
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="labelling", daemon=True)
        self._thread.start()

    @property
    def unanswered(self) -> int:
        return sum(self._rows_of.copy().values())

    @property
    def ended(self) -> bool:
        """Whether it is closed, and all accepted requests are answered."""
        return self.closing and self._accepted == 0

    @property
    def busy_seconds(self) -> float:
        """How long the current batch has been running."""
        running = self._running
        return 0.0 if running is None else time.monotonic() - running[0]

    @property
    def oldest_seconds(self) -> float:
        """The age of the oldest unanswered row."""
        with self._changed:
            came = [requests[0].began for requests in self._waiting.values()]
            came += [] if self._running is None else [self._running[1]]
        return time.monotonic() - min(came) if came else 0.0

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def is_stuck(self, seconds: float) -> bool:
        """Whether one batch takes longer than this, or the thread has ended: nothing is being answered."""
        return not (self.alive or self.closing) or self.busy_seconds > seconds

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

    async def label(self, rows: Sequence[tuple[str | None, Any]], client: str = "") -> list[Answer | UserError]:
        """Answers for (task, row) pairs, in the same order; raises FullError or ClosedError. Call within `accept`.

        If cancelled, rows that are not in a batch yet are dropped.
        """
        loop = asyncio.get_running_loop()
        work = _LabelRequest(client, rows, [_characters(row) for _, row in rows], loop, loop.create_future())
        with self._changed:
            self._admit(client, len(rows))
            self._waiting.setdefault(client, deque()).append(work)
            self._changed.notify()
        try:
            return await work.future
        finally:
            with self._changed:
                self._give_up(work)

    async def call(self, function: Callable[[], Any]) -> Any:
        """Runs the function between batches, in the thread that alone uses the model. Call within `accept`."""
        loop = asyncio.get_running_loop()
        call = _Call(function, loop, loop.create_future())
        with self._changed:
            self._calls.append(call)
            self._changed.notify()
        try:
            return await call.future
        finally:
            with self._changed, suppress(ValueError):  # if cancelled, it must not run later; else it has been taken out
                self._calls.remove(call)

    def close(self) -> None:
        """Refuses new requests; accepted ones are answered. Safe in a signal handler: the lock is re-entrant."""
        with self._changed:
            self.closing = True
            self._changed.notify()

    def abandon(self) -> None:
        """Drops waiting requests, which raise ClosedError."""
        with self._changed:
            given_up = [work for requests in self._waiting.values() for work in requests]
            for work in given_up:
                self._give_up(work)
                resolve(work.loop, work.future, None, ClosedError())

    def join(self, timeout_seconds: float | None = None) -> None:
        self._thread.join(timeout_seconds)

    def _admit(self, client: str, rows: int) -> None:
        own = self._rows_of.get(client, 0)
        share = self.max_waiting // len(self._rows_of.keys() | {client})
        others = sum(self._rows_of.values()) - own
        if rows > self.max_waiting or (own and own + rows > share) or own + others + rows > 2 * self.max_waiting:
            raise FullError
        self._count(client, rows)

    def _count(self, client: str, rows: int) -> None:
        self._rows_of[client] = self._rows_of.get(client, 0) + rows
        if not self._rows_of[client]:
            del self._rows_of[client]

    def _give_up(self, work: _LabelRequest) -> None:
        """Drops the rows of a request that are not in a batch yet."""
        requests = self._waiting.get(work.client, deque())
        if work not in requests:
            return
        requests.remove(work)
        if not requests:
            del self._waiting[work.client]
        self._count(work.client, work.taken - len(work.rows))

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._calls or self._waiting or self.ended):
                    self._changed.wait()
                call = self._calls.popleft() if self._calls else None
                batch = self._batch() if call is None else []
                if call is None and not batch:
                    return
                now = time.monotonic()
                self._running = (now, min((part.request.began for part in batch), default=now))
            if call is not None:
                resolve(call.loop, call.future, *try_call(call.function))
            else:
                self._label(batch)
            self._running = None

    def _batch(self) -> list[_Part]:
        """The next batch: up to `batch_rows` rows and BATCH_CHARACTERS, clients in turn."""
        batch: list[_Part] = []
        room, turn = self.batch_rows, max(1, self.batch_rows // TURNS)
        left, in_turn = BATCH_CHARACTERS, BATCH_CHARACTERS // TURNS
        while room and left > 0 and self._waiting:
            client = next(iter(self._waiting))
            requests = self._waiting.pop(client)
            work = requests[0]
            part = work.take(min(room, turn), min(left, in_turn))
            batch.append(part)
            room -= part.end - part.start
            left -= sum(work.characters[part.start : part.end])
            if part.end == len(work.rows):
                requests.popleft()
            if requests:
                self._waiting[client] = requests  # last in turn
        return batch

    def _label(self, batch: Sequence[_Part]) -> None:
        started = time.monotonic()
        rows = [row for part in batch for row in part.rows]
        answers, error = try_call(lambda: label_rows(self.predictor, rows))
        if error is not None and len(batch) > 1:  # find the request that fails
            for part in batch:
                self._label([part])
            return
        self._observe(len(rows), time.monotonic() - started)
        given = iter(answers or [])
        for part in batch:
            part.request.answers += [next(given) for _ in part.rows] if error is None else []
            self._finish(part, error)

    def _finish(self, part: _Part, error: Exception | None) -> None:
        work = part.request
        with self._changed:
            self._count(work.client, part.start - part.end)
            if error is not None:
                self._give_up(work)
        if error is not None or len(work.answers) == len(work.rows):
            resolve(work.loop, work.future, work.answers, error)


def _characters(row: Any) -> int:
    return len(row) if isinstance(row, str) else sum(len(str(value)) for value in row.values())


def label_rows(predictor: "Predictor", rows: Sequence[tuple[int, str | None, Any]]) -> list[Answer | UserError]:
    """Answers for (number from 1, task, row) triples; a row that cannot be labelled has a UserError instead."""
    prepared = predictor.prepare(rows)
    good: list[Prepared] = [row for row in prepared if not isinstance(row, UserError)]
    labelled = iter(predictor.answer(good) if good else [])
    return [row if isinstance(row, UserError) else Answer(next(labelled), row) for row in prepared]
