"""The server around the app: it ends when all that was taken is answered, and says 503 to the rest until then."""

import asyncio
from types import FrameType

import uvicorn
from fastapi import FastAPI

from tfew.service.queue import LabelQueue


class GracefulServer(uvicorn.Server):
    """On SIGTERM or Ctrl-C the queue closes, and the server stays until it is empty; a second one ends it at once."""

    def __init__(self, config: uvicorn.Config, queue: LabelQueue) -> None:
        super().__init__(config)
        self._queue = queue

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._queue.closing:
            super().handle_exit(sig, frame)
        else:
            self._queue.close()

    async def on_tick(self, counter: int) -> bool:
        return self._queue.ended or await super().on_tick(counter)


def serve(app: FastAPI, queue: LabelQueue, host: str, port: int) -> None:
    """Until it is told to end."""
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", timeout_keep_alive=5, server_header=False, backlog=4096
    )
    asyncio.run(GracefulServer(config, queue).serve())
    queue.join()
