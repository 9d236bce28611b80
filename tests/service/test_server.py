"""How long a stopping service refuses, and waits for clients."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from tfew.service import server
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
        def __init__(self, config: Any, queue: Any) -> None:
            seconds.append(config.timeout_graceful_shutdown)

        async def serve(self, sockets: Any = None) -> None:
            return None

    monkeypatch.setattr(server, "GracefulServer", Recorded)
    server.serve(SimpleNamespace(), SimpleNamespace(join=lambda: None), "127.0.0.1", 0)  # type: ignore[arg-type]
    assert seconds == [SHUTDOWN_TIMEOUT_SECONDS]
