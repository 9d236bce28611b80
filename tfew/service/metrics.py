"""The metrics of `GET /metrics`, in Prometheus' format.

With several processes, the one that is asked answers for all: each writes its metrics to a file every second.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)
LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """`process`: the name of this one among several, a label of all metrics; `folder`: where all processes write
    theirs."""

    def __init__(self, process: str | None = None, folder: Path | None = None) -> None:
        self.process, self._folder, self._failed = process, folder, False
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "tfew_requests", "Requests by path and status", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "tfew_request_seconds", "Time to answer", ["path"], buckets=LATENCIES, registry=self._registry
        )
        self._rows = Counter("tfew_rows", "Rows labelled", registry=self._registry)
        self._batches = Counter("tfew_batches", "Batches of rows labelled", registry=self._registry)
        self._busy = Counter("tfew_busy_seconds", "Time spent labelling", registry=self._registry)
        self._waiting = Gauge("tfew_waiting_rows", "Rows accepted and not answered yet", registry=self._registry)
        self._oldest = Gauge("tfew_oldest_row_seconds", "Age of the oldest of them", registry=self._registry)
        self._tasks = Gauge("tfew_tasks", "Tasks loaded", registry=self._registry)

    def observe_request(self, path: str, status: int, seconds: float) -> None:
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def observe_batch(self, rows: int, seconds: float) -> None:
        self._rows.inc(rows)
        self._batches.inc()
        self._busy.inc(seconds)

    def observe_state(self, waiting: int, tasks: int, oldest_seconds: float) -> None:
        self._waiting.set(waiting)
        self._tasks.set(tasks)
        self._oldest.set(oldest_seconds)

    def response(self) -> Response:
        if self._folder is None:
            return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)
        self.publish()
        return Response(generate_latest(_AllProcesses(self._folder)), media_type=CONTENT_TYPE_LATEST)

    def publish(self) -> None:
        """Writes this process's metrics for the others; does nothing if there are none. What fails is logged once."""
        if self._folder is None:
            return
        path = self._folder / f"{self.process}.json"
        temporary = path.with_suffix(".new")
        shown = [_shown(family, str(self.process)) for family in self._registry.collect()]
        try:
            temporary.write_text(json.dumps(shown))
            os.replace(temporary, path)
            self._failed = False
        except OSError as error:  # labelling goes on
            if not self._failed:
                log.warning(f"The metrics of process {self.process} cannot be written for the others: {error}")
            self._failed = True


def _shown(family: Metric, process: str) -> list[Any]:
    samples = [[sample.name, {**sample.labels, "process": process}, sample.value] for sample in family.samples]
    return [family.name, family.documentation, family.type, samples]


class _AllProcesses:
    """A registry of the metrics of all processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for name, documentation, kind, samples in self._read():
            family = families.setdefault(name, Metric(name, documentation, kind))
            for sample in samples:
                family.add_sample(*sample)
        return families.values()

    def _read(self) -> Iterator[list[Any]]:
        for path in sorted(self._folder.glob("*.json")):
            with suppress(OSError):
                yield from json.loads(path.read_text())


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
