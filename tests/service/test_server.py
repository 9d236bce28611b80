"""How long a stopping service refuses, and waits for clients."""

import asyncio
import json
import threading
import time
from http.client import HTTPConnection
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from tests.service.running import wait_for
from tests.service.stubs import Recorder
from tfew.service import server
from tfew.service.app import make_app
from tfew.service.limits import Limits
from tfew.service.metrics import Metrics
from tfew.service.queue import LabelQueue
from tfew.service.server import REFUSE_SECONDS, SHUTDOWN_TIMEOUT_SECONDS, GracefulServer


def test_it_refuses_for_a_moment_behind_its_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = SimpleNamespace(ended=True, closing=True)
    graceful = GracefulServer(uvicorn.Config(lambda: None), queue)  # type: ignore[arg-type]
    now = 100.0
    monkeypatch.setattr("tfew.service.server.time.monotonic", lambda: now)

    async def ends(later: float) -> bool:
        nonlocal now
        now = 100.0 + later
        return await graceful.on_tick(1)

    assert not asyncio.run(ends(0))
    assert not asyncio.run(ends(REFUSE_SECONDS))
    assert asyncio.run(ends(REFUSE_SECONDS + 0.01))


def test_uvicorn_is_told_when_to_disconnect_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: list[int | None] = []

    class Recorded(GracefulServer):
        def __init__(self, config: Any, *_: Any) -> None:
            seconds.append(config.timeout_graceful_shutdown)
            self.started = True

        def run(self, sockets: Any = None) -> None:
            return None

    monkeypatch.setattr(server, "GracefulServer", Recorded)
    queue: Any = SimpleNamespace(join=lambda seconds: None)
    server.serve(SimpleNamespace(), queue, server.Listening("127.0.0.1", 0), lambda port: None)  # type: ignore[arg-type]
    assert seconds == [SHUTDOWN_TIMEOUT_SECONDS]


def test_what_is_not_labelled_by_the_deadline_is_refused_and_the_port_is_told() -> None:
    """A worker that hangs: SIGTERM ends the server nevertheless, and clients have an answer."""
    recorder = Recorder(go=False)
    queue = LabelQueue(recorder, 100, 4)  # type: ignore[arg-type]
    app = make_app(queue, Metrics(), Limits(20, 10**6, 60.0, ("127.0.0.1",), None))
    ports: list[int] = []
    graceful = GracefulServer(uvicorn.Config(app, port=0, log_level="warning"), queue, None, 0.3, ports.append)
    thread = threading.Thread(target=graceful.run)
    thread.start()
    wait_for(lambda: ports)
    asking = HTTPConnection("127.0.0.1", ports[0], timeout=20)
    body = json.dumps({"items": [{"text": "a"}] * 20})
    asking.request("POST", "/predict", body, {"content-type": "application/json"})
    wait_for(lambda: recorder.batches)
    started = time.monotonic()
    graceful.handle_exit(15, None)
    with asking.getresponse() as answer:
        assert (answer.status, json.load(answer)["detail"]) == (503, "The service is shutting down.")
    asking.close()
    thread.join()
    assert time.monotonic() - started < 5
    recorder.go.set()
    queue.join(10)
    assert not queue.alive
