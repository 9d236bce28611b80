"""The server around the app: it stops once all accepted requests are answered, and rejects new ones with 503."""

import asyncio
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from tfew.service.queue import LabelQueue

REFUSE_SECONDS = 1.0  # for which a stopping service still answers 503 after its last answer
SHUTDOWN_TIMEOUT_SECONDS = 5  # then clients with unfinished requests or responses are disconnected


class GracefulServer(uvicorn.Server):
    """On SIGTERM or Ctrl-C the queue closes, and the server runs until it is empty; a second signal stops at once."""

    def __init__(self, config: uvicorn.Config, queue: LabelQueue) -> None:
        super().__init__(config)
        self._queue = queue
        self._ended: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._queue.closing:
            super().handle_exit(sig, frame)
        else:
            self._queue.close()

    async def on_tick(self, counter: int) -> bool:
        if self._queue.ended and self._ended is None:
            self._ended = time.monotonic()
        over = self._ended is not None and time.monotonic() - self._ended > REFUSE_SECONDS
        return over or await super().on_tick(counter)


def serve(app: FastAPI, queue: LabelQueue, host: str, port: int) -> None:
    """Serves until it is stopped by a signal."""
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", timeout_keep_alive=5, server_header=False, backlog=4096,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_SECONDS,
    )  # fmt: skip
    asyncio.run(GracefulServer(config, queue).serve())
    queue.join()
