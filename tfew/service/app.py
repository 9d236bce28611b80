"""The HTTP interface: `POST /predict`, `POST /table`, `GET /tasks`, `/healthz`, `/metrics`, and a web page."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from pydantic import TypeAdapter
from starlette.middleware.trustedhost import TrustedHostMiddleware

from tfew.environment.versions import own_version
from tfew.errors import UserError
from tfew.service.headers import HeadersMiddleware
from tfew.service.json_body import read_json
from tfew.service.limits import BodyLimitMiddleware, Limits
from tfew.service.messages import (
    Health,
    Item,
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
from tfew.service.openapi import add_schemas, json_body
from tfew.service.operations import Operations, client_of
from tfew.service.queue import LabelQueue
from tfew.service.shared_tasks import SharedTasks
from tfew.service.table import read_table, write_table
from tfew.service.tokens import TokenMiddleware, Tokens

if TYPE_CHECKING:
    from tfew.prediction.task_predictor import Labelled

audit = logging.getLogger("tfew.service.audit")

PAGE = Path(__file__).with_name("page.html")
PREDICT_BODY: TypeAdapter[Any] = TypeAdapter(OneOrMany)
TASK_BODY = TypeAdapter(NewTask)
EXAMPLE = {"task": "spam", "text": "win a prize"}
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "no token, or an unknown one (where the service has tokens)"},
    403: {"model": Problem, "description": "the token lacks the right, or tasks cannot be changed"},
    404: {"model": Problem, "description": "no such task"},
    408: {"model": Problem, "description": "the body did not arrive in time"},
    413: {"model": Problem, "description": "body, table or number of items too large"},
    422: {"model": Problem, "description": "invalid request, or a row that cannot be labelled"},
    429: {"model": Problem, "description": "too many rows are waiting already"},
    503: {"model": Problem, "description": "the service is shutting down"},
    504: {"model": Problem, "description": "not answered in time"},
}
# the page loads nothing from other hosts, and no other page may frame it
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:;"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def make_app(
    queue: LabelQueue, metrics: Metrics, limits: Limits, tokens: Tokens | None = None, shared: SharedTasks | None = None
) -> FastAPI:
    """`shared`: stores tasks added over HTTP for all processes; None: this process keeps its own."""
    operations = Operations(queue, limits, shared)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with operations.served.kept_up():
            yield

    what = "Labels and probabilities by adapters of many tasks on one model."
    # no docs_url and redoc_url: their pages load from a CDN
    app = FastAPI(
        title="tfew", version=own_version(), description=what, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.add_middleware(BodyLimitMiddleware, max_bytes=limits.max_body_bytes, timeout_seconds=limits.timeout_seconds)
    if tokens is not None:
        app.add_middleware(TokenMiddleware, tokens=tokens)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(limits.allowed_hosts))  # against DNS rebinding
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    app.add_middleware(HeadersMiddleware)
    _add_labelling(app, operations)
    _add_tasks(app, operations)
    _add_state(app, operations, metrics)
    add_schemas(app, PREDICT_BODY, TASK_BODY)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": format_validation_error(error.errors()[0])}, status_code=422)

    return app


def _add_labelling(app: FastAPI, operations: Operations) -> None:
    limits, queue = operations.limits, operations.queue

    @app.post(
        "/predict",
        response_model=PredictResponse,
        responses=ERROR_RESPONSES,
        openapi_extra=json_body(PREDICT_BODY, one=EXAMPLE, many={"items": [EXAMPLE, EXAMPLE], "inputs": True}),
    )
    async def predict(request: Request) -> Response:
        """Labels one item, or many of any mix of tasks."""
        found = await read_json(request, PREDICT_BODY, limits.max_items)
        many = (
            found if isinstance(found, PredictRequest) else PredictRequest(items=[found], inputs=False, threshold=None)
        )
        started = time.monotonic()
        with operations.accept():
            answers = await operations.answers(request, [(item.task, item.content) for item in many.items])
        with operations.refusing():  # a task may have been removed since
            shown = [queue.predictor.inputs(answer.prepared) if many.inputs else None for answer in answers]
            labels = [
                _to_message(_under_threshold(answer.labelled, item, many), inputs)
                for answer, item, inputs in zip(answers, many.items, shown, strict=True)
            ]
        response = PredictResponse(labels=labels, milliseconds=1000 * (time.monotonic() - started))
        return Response(response.model_dump_json(), media_type="application/json")

    @app.post("/table", response_class=PlainTextResponse, responses=ERROR_RESPONSES)
    async def table(
        request: Request, task: str | None = None, threshold: Annotated[float | None, Query(ge=0, le=1)] = None
    ) -> PlainTextResponse:
        """A CSV table (text/csv, UTF-8, with a header line) comes back with the columns label and probability.

        The label is empty below the threshold, which overrides the task's own; if the task has sets of labels (sets=),
        there is a column for them, a list in JSON.
        """
        if request.headers.get("content-type", "").partition(";")[0].strip() != "text/csv":
            raise HTTPException(415, "The body of /table is text/csv.")
        operations.check_known([task])
        body = await request.body()
        try:
            columns, rows = await asyncio.to_thread(read_table, body, limits.table_rows)
            operations.check_columns(task, columns)
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        if len(rows) > limits.table_rows:
            raise HTTPException(413, f"The table has more than {limits.table_rows:,} rows (table_rows=).")
        labelled: list[Labelled] = []
        with operations.accept():
            for start in range(0, len(rows), limits.max_items):  # in parts, so that other requests get their turn
                part = [(task, row) for row in rows[start : start + limits.max_items]]
                labelled += [answer.labelled for answer in await operations.answers(request, part, start)]
        if threshold is not None:
            with operations.refusing():
                labelled = [found.with_threshold(threshold) for found in labelled]
        return PlainTextResponse(write_table(columns, rows, labelled), media_type="text/csv")


def _add_tasks(app: FastAPI, operations: Operations) -> None:
    @app.get("/tasks")
    async def tasks() -> list[TaskDescription]:
        return operations.tasks()

    @app.post(
        "/tasks",
        status_code=201,
        response_model=TaskDescription,
        responses=ERROR_RESPONSES,
        openapi_extra=json_body(TASK_BODY, one={"name": "spam", "folder": "runs/NAME"}),
    )
    async def add_task(request: Request) -> TaskDescription:
        """Adds a task's adapter, or replaces the task of that name; needs manage=."""
        operations.check_manages()
        task = await read_json(request, TASK_BODY, 1)
        what = "replace" if task.replace else "add"
        with _audited(request, f"{what} task {task.name!r} from {task.folder[:200]!r}"), operations.accept():
            await operations.add(task.name, task.folder, task.replace)
        return next(found for found in operations.tasks() if found.name == task.name)

    @app.delete("/tasks/{name:path}", status_code=204, responses=ERROR_RESPONSES)
    async def remove_task(request: Request, name: str) -> None:
        operations.check_manages()
        with _audited(request, f"remove task {name[:200]!r}"), operations.accept():
            await operations.remove(name)


def _add_state(app: FastAPI, operations: Operations, metrics: Metrics) -> None:
    queue, limits, page_text = operations.queue, operations.limits, PAGE.read_text(encoding="utf-8")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(page_text, headers={"content-security-policy": PAGE_POLICY})

    @app.get(
        "/healthz",
        response_model_exclude_none=True,
        responses={503: {"model": Health, "description": "shutting down, or stuck"}},
    )
    async def health(response: Response) -> Health:
        """Health. Stuck: one batch takes longer than the time limit of requests, so nothing is being answered."""
        status = "ending" if queue.closing else "stuck" if queue.is_stuck(limits.timeout_seconds) else "ok"
        response.status_code = 200 if status == "ok" else 503
        oldest = round(queue.oldest_seconds, 3)
        tasks = len(queue.predictor.tasks)
        return Health(
            status=status, tasks=tasks, waiting_rows=queue.unanswered, oldest_row_seconds=oldest,
            process=metrics.process,
        )  # fmt: skip

    @app.get("/metrics", response_class=PlainTextResponse)
    async def all_metrics() -> Response:
        metrics.observe_state(queue.unanswered, len(queue.predictor.tasks), queue.oldest_seconds)
        return metrics.response()


@contextmanager
def _audited(request: Request, what: str) -> Iterator[None]:
    """Logs who did what, and the resulting status; never a text to label."""
    status: Any = "failed"
    try:
        yield
        status = "done"
    except HTTPException as error:
        status = error.status_code
        raise
    finally:
        audit.info(f"{what} for {client_of(request)}, {request.scope['tfew.request_id']}: {status}")


def _under_threshold(found: "Labelled", item: Item, request: PredictRequest) -> "Labelled":
    """Applies the item's threshold, else the request's, else the task's."""
    threshold = request.threshold if item.threshold is None else item.threshold
    return found if threshold is None else found.with_threshold(threshold)


def _to_message(found: "Labelled", inputs: list[str] | None) -> Label:
    return Label(
        task=found.task, label=found.label, probability=found.probability, probabilities=found.probabilities,
        guess=found.guess, abstained=found.abstained, labels=None if found.labels is None else list(found.labels),
        label_set=None if found.label_set is None else list(found.label_set), inputs=inputs,
    )  # fmt: skip
