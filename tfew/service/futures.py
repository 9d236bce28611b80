"""Passes results of other threads to the event loop that awaits them."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def try_call(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """The result, or the exception, for the caller; the thread continues."""
    try:
        return function(), None
    except Exception as error:
        return None, error


def resolve(
    loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Any]", result: Any, error: Exception | None
) -> None:
    """Resolves the future; safe from any thread."""

    def settle() -> None:
        if future.done():  # cancelled meanwhile
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    with suppress(RuntimeError):  # the loop is closed: nobody awaits the result
        loop.call_soon_threadsafe(settle)
