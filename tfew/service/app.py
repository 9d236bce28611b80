"""The HTTP interface: `POST /predict`, `POST /table`, `GET /tasks`, `/healthz`, `/metrics`, and a web page."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from tfew.environment.versions import own_version
from tfew.errors import UserError
from tfew.service.limits import BodyLimitMiddleware, Limits
from tfew.service.messages import (
    Health,
    Label,
    NewTask,
    OneOrMany,
    PredictRequest,
    PredictResponse,
    Problem,
    TaskDescription,
    format_validation_error,
)
from tfew.service.metrics import Metrics, MetricsMiddleware
from tfew.service.queue import Answer, ClosedError, FullError, LabelQueue
from tfew.service.table import read_table, write_table

if TYPE_CHECKING:
    from tfew.prediction.task_predictor import Labelled

PAGE = Path(__file__).with_name("page.html")
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "no such task"},
    408: {"model": Problem, "description": "the body did not come in time"},
    413: {"model": Problem, "description": "body or number of items too large"},
    422: {"model": Problem, "description": "not what was asked for, or a row that cannot be labelled"},
    429: {"model": Problem, "description": "too many rows are waiting already"},
    503: {"model": Problem, "description": "the service is ending"},
    504: {"model": Problem, "description": "not answered in time"},
}
# the page loads nothing from other hosts, and no other page may frame it
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:;"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def make_app(queue: LabelQueue, metrics: Metrics, limits: Limits) -> FastAPI:
    what = "Labels and probabilities by adapters of many tasks on one model."
    # no docs_url and redoc_url: their pages load from a CDN
    app = FastAPI(title="tfew", version=own_version(), description=what, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimitMiddleware, max_bytes=limits.max_body_bytes, timeout_seconds=limits.timeout_seconds)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(limits.allowed_hosts))  # against DNS rebinding
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    service = _Service(queue, limits)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": format_validation_error(error.errors()[0])}, status_code=422)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers={"content-security-policy": PAGE_POLICY})

    @app.post("/predict", responses=ERROR_RESPONSES)
    async def predict(request: OneOrMany) -> PredictResponse:
        """Labels one item, or many of any mix of tasks."""
        many = request if isinstance(request, PredictRequest) else PredictRequest(items=[request], inputs=False)
        started = time.monotonic()
        with service.accept():
            answers = await service.answers([(item.task, item.content) for item in many.items])
        return PredictResponse(
            labels=[
                _to_message(answer.labelled, queue.predictor.inputs(answer.prepared) if many.inputs else None)
                for answer in answers
            ],
            milliseconds=1000 * (time.monotonic() - started),
        )

    @app.post("/table", response_class=PlainTextResponse, responses=ERROR_RESPONSES)
    async def table(request: Request, task: str | None = None) -> PlainTextResponse:
        """A CSV table (text/csv, UTF-8, with a header line) comes back with the columns label and probability."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "text/csv":
            raise HTTPException(415, "The body of /table is text/csv.")
        try:
            columns, rows = read_table(await request.body())
            service.check_columns(task, columns)
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        answers: list[Answer] = []
        with service.accept():
            for start in range(0, len(rows), limits.max_items):  # in parts, so that other requests get their turn
                part = [(task, row) for row in rows[start : start + limits.max_items]]
                answers += await service.answers(part, start)
        return PlainTextResponse(write_table(columns, rows, answers), media_type="text/csv")

    @app.get("/tasks")
    async def tasks() -> list[TaskDescription]:
        return service.tasks()

    @app.post("/tasks", status_code=201, responses={**ERROR_RESPONSES, 403: {"model": Problem}})
    async def add_task(task: NewTask) -> TaskDescription:
        """Adds an adapter; needs manage=."""
        folder = service.managed_folder(task.folder)
        with service.accept():
            await service.change(lambda: queue.predictor.add(task.name, folder))
        return next(found for found in service.tasks() if found.name == task.name)

    @app.delete("/tasks/{name}", status_code=204, responses={**ERROR_RESPONSES, 403: {"model": Problem}})
    async def remove_task(name: str) -> None:
        service.managed_folder(".")
        service.check_known([name])
        with service.accept():
            await service.change(lambda: queue.predictor.remove(name))

    @app.get("/healthz", responses={503: {"model": Health}})
    async def health(response: Response) -> Health:
        if queue.closing:
            response.status_code = 503
        status = "ending" if queue.closing else "ok"
        return Health(status=status, tasks=len(queue.predictor.tasks), waiting_rows=queue.unanswered)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def all_metrics() -> Response:
        return metrics.response(queue.unanswered, len(queue.predictor.tasks))

    return app


class _Service:
    """Shared by the routes: checks, and the HTTP status of each error."""

    def __init__(self, queue: LabelQueue, limits: Limits) -> None:
        self.queue, self.limits = queue, limits

    @contextmanager
    def accept(self) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                stack.enter_context(self.queue.accept())
            except ClosedError:
                _refuse(503, "The service is ending.", connection="close")
            yield

    async def answers(self, rows: Sequence[tuple[str | None, Any]], earlier: int = 0) -> list[Answer]:
        """`earlier`: rows of the same table that were answered before; item numbers in errors continue from it."""
        if len(rows) > self.limits.max_items:
            raise HTTPException(413, f"{len(rows):,} items are more than {self.limits.max_items:,} (max_items=).")
        self.check_known(task for task, _ in rows)
        found = await self._in_time(self.queue.label(rows))
        for number, answer in enumerate(found, start=1 + earlier):
            if isinstance(answer, UserError):
                raise HTTPException(422, f"Item {number}: {answer}")
        return [answer for answer in found if isinstance(answer, Answer)]

    def check_known(self, names: Iterable[str | None]) -> None:
        tasks = self.queue.predictor.tasks
        for name in dict.fromkeys(names):
            if name is None and len(tasks) != 1:
                raise HTTPException(422, f"task is missing, and there are {len(tasks)}: GET /tasks names them.")
            if name is not None and name not in tasks:
                raise HTTPException(404, f"There is no task {name[:100]!r}: GET /tasks names those that are there.")

    def check_columns(self, name: str | None, columns: Sequence[str]) -> None:
        """Raises UserError where a table's rows lack what those of the task need."""
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
            )
            for name, labeller in self.queue.predictor.tasks.items()
        ]

    def managed_folder(self, folder: str) -> Path:
        """The folder below `manage=`; raises HTTPException if it may not be loaded from."""
        root = self.limits.manage
        if root is None:
            raise HTTPException(403, "Tasks cannot be changed over HTTP (manage=FOLDER allows it).")
        path = (root / folder).resolve()
        if not path.is_relative_to(root.resolve()) or not path.is_dir():
            raise HTTPException(422, f"{folder[:200]!r} is no folder below the one that manage= names.")
        return path

    async def change(self, function: Callable[[], None]) -> None:
        await self._in_time(self.queue.call(function))

    async def _in_time(self, work: Awaitable[Any]) -> Any:
        try:
            return await asyncio.wait_for(work, self.limits.timeout_seconds)
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        except FullError:
            _refuse(429, "Too many rows are waiting (max_waiting=): try again in a moment.")
        except TimeoutError:
            _refuse(504, f"Not answered within {self.limits.timeout_seconds:g} s (timeout_seconds=).")


def _refuse(status: int, why: str, **headers: str) -> NoReturn:
    raise HTTPException(status, why, headers={"retry-after": "1", **headers})


def _to_message(found: "Labelled", inputs: list[str] | None) -> Label:
    return Label(
        task=found.task, label=found.label, probability=found.probability, probabilities=found.probabilities,
        inputs=inputs,
    )  # fmt: skip
