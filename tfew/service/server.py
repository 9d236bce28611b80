"""The server around the app: on shutdown it answers all accepted requests, and rejects new ones with 503."""

import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from tfew.errors import UserError
from tfew.service.connections import ConnectionLimits, Connections, connections_that_fit, limited_protocol
from tfew.service.log_limit import limit_logs
from tfew.service.queue import LabelQueue

log = logging.getLogger(__name__)

REFUSE_SECONDS = 1.0  # for which a stopping service still answers 503 after its last answer
SHUTDOWN_TIMEOUT_SECONDS = 5  # afterwards clients with unfinished requests or responses are disconnected
KEEP_ALIVE_SECONDS = 5
IDLE_SECONDS = 10.0  # for headers to arrive; between requests uvicorn waits KEEP_ALIVE_SECONDS
BACKLOG = 128
TICKS_OF_A_SECOND = 10  # uvicorn's


@dataclass(frozen=True)
class Listening:
    """`answer_seconds`: for a response to be read; `drain_seconds`: after a signal to stop, requests still unlabelled
    after this time are refused; `certificate` and `key`: PEM files, for HTTPS."""

    host: str
    port: int
    max_connections: int = 512
    answer_seconds: float = 60.0
    drain_seconds: float = 60.0
    certificate: Path | None = None
    key: Path | None = None


class GracefulServer(uvicorn.Server):
    """On SIGTERM or Ctrl-C the queue closes, and the server runs until it is empty, or for `drain_seconds`; a second
    signal stops at once. `ready` is called with the listening port, `each_second` every second."""

    def __init__(
        self,
        config: uvicorn.Config,
        queue: LabelQueue,
        connections: Connections | None = None,
        drain_seconds: float = float("inf"),
        ready: Callable[[int], None] = lambda port: None,
        each_second: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._queue, self._connections, self._drain_seconds, self._ready = queue, connections, drain_seconds, ready
        self._each_second = each_second
        self._closed: float | None = None
        self._ended: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for shared in sockets or []:
            shared.listen(BACKLOG)  # restores the backlog of all processes, which the loop has changed
        if self.started:
            self._ready(self.servers[0].sockets[0].getsockname()[1])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._queue.closing:
            super().handle_exit(sig, frame)
        else:
            self._queue.close()

    async def on_tick(self, counter: int) -> bool:
        now = time.monotonic()
        if self._connections is not None and counter % 10 == 0:
            self._connections.close_overdue()
        if counter % TICKS_OF_A_SECOND == 0:
            self._each_second()
        if self._queue.closing and self._closed is None:
            self._closed = now
        if self._queue.ended and self._ended is None:
            self._ended = now
        if self._closed is not None and self._ended is None and now - self._closed > self._drain_seconds:
            log.warning(f"After {self._drain_seconds:g} s (drain_seconds=) the requests still waiting are refused.")
            self._queue.abandon()
            self._ended = now
        over = self._ended is not None and now - self._ended > REFUSE_SECONDS
        return over or await super().on_tick(counter)


def serve(
    app: FastAPI,
    queue: LabelQueue,
    listening: Listening,
    ready: Callable[[int], None],
    sockets: Sequence[socket.socket] | None = None,
    each_second: Callable[[], None] = lambda: None,
) -> None:
    """Serves until it is stopped by a signal. `sockets`: to accept from, shared with other processes."""
    limit_logs("uvicorn.error", "asyncio", "tfew.service.audit")
    limits = ConnectionLimits(connections_that_fit(listening.max_connections), IDLE_SECONDS, listening.answer_seconds)
    protocol, connections = limited_protocol(limits)
    config = uvicorn.Config(
        app, host=listening.host, port=listening.port, log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS, server_header=False,
        backlog=BACKLOG if sockets is None else 1,  # accepted at a time: others cannot take what one has accepted
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_SECONDS, http=protocol, ws="none",
        access_log=False, ssl_certfile=listening.certificate, ssl_keyfile=listening.key,
    )  # fmt: skip
    server = GracefulServer(config, queue, connections, listening.drain_seconds, ready, each_second)
    server.run(None if sockets is None else list(sockets))  # with uvloop, if installed
    if not server.started:
        raise UserError("The service did not start: see above.")
    queue.join(SHUTDOWN_TIMEOUT_SECONDS)  # its thread is a daemon: if it hangs, it ends with the process
