"""The metrics of `GET /metrics`, in Prometheus' format."""

import time

from fastapi import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "tfew_requests", "Requests by path and status", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "tfew_request_seconds", "Time to answer", ["path"], buckets=LATENCIES, registry=self._registry
        )
        self._rows = Counter("tfew_rows", "Rows labelled", registry=self._registry)
        self._batches = Counter("tfew_batches", "Passes of gathered rows", registry=self._registry)
        self._busy = Counter("tfew_busy_seconds", "Time spent labelling", registry=self._registry)
        self._waiting = Gauge("tfew_waiting_rows", "Rows taken and not answered yet", registry=self._registry)
        self._oldest = Gauge("tfew_oldest_row_seconds", "Age of the oldest of them", registry=self._registry)
        self._tasks = Gauge("tfew_tasks", "Tasks that are there", registry=self._registry)

    def observe_request(self, path: str, status: int, seconds: float) -> None:
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def observe_batch(self, rows: int, seconds: float) -> None:
        self._rows.inc(rows)
        self._batches.inc()
        self._busy.inc(seconds)

    def response(self, waiting: int, tasks: int, oldest_seconds: float) -> Response:
        self._waiting.set(waiting)
        self._tasks.set(tasks)
        self._oldest.set(oldest_seconds)
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


class MetricsMiddleware:
    """ASGI middleware: observes every request at the start of its response."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                # the route's path: a label for every requested path would be unbounded
                path = getattr(scope.get("route"), "path", "other")
                self.metrics.observe_request(path, message["status"], time.monotonic() - started)
            await send(message)

        await self.app(scope, receive, counted)
