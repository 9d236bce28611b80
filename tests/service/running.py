"""The app behind the server's own connections, in a thread of the test."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from tfew.service.connections import ConnectionLimits, Connections, limited_protocol
from tfew.service.queue import LabelQueue
from tfew.service.server import GracefulServer


@contextmanager
def running(app: Any, queue: LabelQueue, limits: ConnectionLimits, **options: Any) -> Iterator[tuple[int, Connections]]:
    """The port, and the connections that are open."""
    protocol, connections = limited_protocol(limits)
    own = {"port": 0, "log_level": "warning", "http": protocol, "ws": "none", "timeout_graceful_shutdown": 5}
    config = uvicorn.Config(app, **own, **options)
    ports: list[int] = []
    server = GracefulServer(config, queue, connections, ready=ports.append)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: ports, 60)
        yield ports[0], connections
    finally:
        server.should_exit = True
        thread.join()
        queue.close()


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)
