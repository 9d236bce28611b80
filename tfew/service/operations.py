"""The work of the routes: labelling rows for a waiting client, changing tasks; and the HTTP status of each error."""

import asyncio
import re
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from fastapi import HTTPException, Request

from tfew.errors import UserError
from tfew.service.limits import Limits
from tfew.service.messages import Point, TaskDescription
from tfew.service.queue import Answer, ClosedError, FullError, LabelQueue
from tfew.service.shared_tasks import SharedTasks
from tfew.service.tasks import BusyError, LaggingError, ServedTasks

if TYPE_CHECKING:
    from tfew.prediction.task_predictor import TaskPredictor

T = TypeVar("T")
CLIENT_CLOSED_REQUEST = 499  # nginx's status; only the metrics see it
ABSOLUTE = re.compile(r"(?<![\w.~-])/(?:[^/\s'\"]+/)+")  # the folders of a path


class Operations:
    """`shared`: see `ServedTasks`."""

    def __init__(self, queue: LabelQueue, limits: Limits, shared: SharedTasks | None = None) -> None:
        self.queue, self.limits = queue, limits
        self.served = ServedTasks(queue, self._folder, limits.timeout_seconds, shared)

    @contextmanager
    def accept(self) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                stack.enter_context(self.queue.accept())
            except ClosedError:
                refuse_ending()
            yield

    async def answers(self, request: Request, rows: Sequence[tuple[str | None, Any]], earlier: int = 0) -> list[Answer]:
        """`earlier`: how many rows of the same table were answered before; added to item numbers in errors."""
        self.check_known(task for task, _ in rows)
        with self.refusing():
            work = self.queue.label(rows, client_of(request))
            found = await while_connected(request, work, self.limits.timeout_seconds)
        for number, answer in enumerate(found, start=1 + earlier):
            if isinstance(answer, UserError):
                raise HTTPException(422, f"Item {number}: {answer}")
        return [answer for answer in found if isinstance(answer, Answer)]

    def check_known(self, names: Iterable[str | None]) -> None:
        tasks = self.queue.predictor.tasks
        for name in dict.fromkeys(names):
            if name is None and len(tasks) != 1:
                raise HTTPException(422, f"task is missing, and the service has {len(tasks)}: GET /tasks lists them.")
            if name is not None and name not in tasks:
                raise HTTPException(404, f"There is no task {name[:100]!r}: GET /tasks lists those that exist.")

    def check_columns(self, name: str | None, columns: Sequence[str]) -> None:
        """Raises UserError if a table lacks columns that the task needs."""
        self.check_known([name])
        tasks = self.queue.predictor.tasks
        tasks[next(iter(tasks)) if name is None else name].check_columns(columns, "The table")

    def tasks(self) -> list[TaskDescription]:
        return [
            TaskDescription(
                name=name,
                labels=None if labeller.labels is None else list(labeller.labels),
                columns=list(labeller.columns),
                text_column=labeller.text_column,
                templates=list(labeller.templates),
                threshold=labeller.decision.threshold,
                sets=labeller.decision.share,
                answering=_answering(labeller),
                several=labeller.several,
            )
            for name, labeller in self.queue.predictor.tasks.items()
        ]

    def check_manages(self) -> None:
        if self.limits.manage is None:
            raise HTTPException(403, "Tasks cannot be changed over HTTP (manage=FOLDER allows it).")

    def _folder(self, folder: str) -> Path:
        """The folder below `manage=`; raises UserError if it may not be loaded from."""
        root = self.limits.manage
        assert root is not None
        try:
            path = (root / folder).resolve()
            good = path.is_relative_to(root.resolve()) and path.is_dir()
        except (OSError, ValueError):  # a name that is too long, or holds NUL
            good = False
        if not good:
            raise UserError(f"{folder[:200]!r} is not a folder below the one that manage= names.")
        return path

    async def add(self, name: str, folder: str, replace: bool) -> None:
        await self._changing(self.served.add(name, folder, replace))

    async def remove(self, name: str) -> None:
        self.check_known([name])
        await self._changing(self.served.remove(name))

    async def _changing(self, work: Awaitable[T]) -> T:
        """Awaits a change of tasks; strips local folders from its errors."""
        try:
            with self.refusing():
                return await work
        except HTTPException as error:
            raise HTTPException(error.status_code, ABSOLUTE.sub("", str(error.detail)), error.headers) from None

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Turns errors of the queue and the predictor into HTTP errors."""
        try:
            yield
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        except FullError:
            refuse(429, "Too many rows are waiting (max_waiting=): try again in a moment.")
        except BusyError:
            refuse(429, "Another task is being added or removed: try again in a moment.")
        except LaggingError as error:
            refuse(503, str(error))
        except ClosedError:
            refuse_ending()
        except TimeoutError:
            refuse(504, f"Not answered within {self.limits.timeout_seconds:g} s (timeout_seconds=).")


def _answering(labeller: "TaskPredictor") -> list[Point] | None:
    if (summary := labeller.answering) is None:
        return None
    return [
        Point(
            threshold=point["threshold"],
            coverage=point["answered"] / summary["rows"],
            accuracy=point["right"] / point["answered"],
        )
        for point in summary["points"]
    ]


async def while_connected(request: Request, work: Awaitable[T], timeout_seconds: float) -> T:
    """Awaits the work; cancels it if the client disconnects, or after a timeout (TimeoutError). The body must have been
    read."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, gone}, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if gone.done():
            raise HTTPException(CLIENT_CLOSED_REQUEST, "The client has disconnected.")
        raise TimeoutError
    finally:
        working.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def client_of(request: Request) -> str:
    """The client, for turns in the queue: the name of its token, else its address."""
    name: str | None = request.scope.get("tfew.client")
    return name or (request.client.host if request.client else "")


def refuse(status: int, why: str, **headers: str) -> NoReturn:
    raise HTTPException(status, why, headers={"retry-after": "1", **headers})


def refuse_ending() -> NoReturn:
    refuse(503, "The service is shutting down.", connection="close")
