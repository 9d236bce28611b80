"""Adapters are read in a thread of their own: one that takes long, or for ever, keeps no row from being labelled."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from tfew.service.futures import resolve, try_call

T = TypeVar("T")


class BusyError(Exception):
    """Another adapter is being read."""


class TaskLoader:
    """Runs one function at a time, in a daemon thread: a reader that hangs does not keep the process from ending."""

    def __init__(self) -> None:
        self._free = threading.Lock()

    async def run(self, function: Callable[[], T]) -> T:
        """Raises BusyError, or what the function raises; cancelled, the thread continues and is busy until its end."""
        if not self._free.acquire(blocking=False):
            raise BusyError
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        threading.Thread(target=self._work, args=(function, loop, future), name="task loader", daemon=True).start()
        return await future

    def _work(self, function: Callable[[], T], loop: asyncio.AbstractEventLoop, future: "asyncio.Future[T]") -> None:
        result, error = try_call(function)
        self._free.release()
        resolve(loop, future, result, error)
