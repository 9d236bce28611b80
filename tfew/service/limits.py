"""Limits of a request's size and time; configs/serve.yaml documents each."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tfew.errors import UserError

# * stands for all, or for all below a domain; an IPv6 address is in brackets
HOST = re.compile(r"\*|\[[0-9A-Fa-f:.]+\]|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
MAX_BODIES = 32  # in memory at the same time, of the largest allowed size


@dataclass(frozen=True)
class Limits:
    """`timeout_seconds`: for the body to arrive, and again for its rows to be labelled.

    `allowed_hosts`: accepted Host headers. `manage`: the folder below which adapters may be added over HTTP; None: no
    adapters may be added. `table_rows`: of a table, which is labelled in parts of `max_items` rows.
    """

    max_items: int
    max_body_bytes: int
    timeout_seconds: float
    allowed_hosts: tuple[str, ...]
    manage: Path | None
    table_rows: int = 50_000


def host_names(allowed: Any) -> tuple[str, ...]:
    """The Host names of `allowed_hosts=`: one, or a list; raises UserError for what is none."""
    names = [] if allowed is None else [allowed] if isinstance(allowed, str) else allowed
    wrong = [name for name in names if not HOST.fullmatch(str(name))] if isinstance(names, Sequence) else [allowed]
    if wrong:
        raise UserError(
            f"allowed_hosts={wrong[0]} is no list of names such as [labels.example.org], without a port, or"
            " [*.example.org] for all names below one."
        )
    return tuple(map(str, names))


class BodyLimitMiddleware:
    """ASGI middleware: a body raises 413 as soon as more than `max_bytes` were read, whatever its Content-Length,
    408 if it has not arrived after `timeout_seconds`, and 429 if MAX_BODIES times `max_bytes` are already held."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_seconds: float) -> None:
        self.app, self.max_bytes, self.timeout_seconds = app, max_bytes, timeout_seconds
        self.held_bytes = 0  # of all bodies being received or answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        seen, whole = 0, False
        deadline = asyncio.get_running_loop().time() + self.timeout_seconds

        async def limited() -> Message:
            nonlocal seen, whole
            if whole:  # from now on receive() waits for the disconnect
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                why = f"The body did not arrive within {self.timeout_seconds:g} s (timeout_seconds=)."
                raise HTTPException(408, why, headers={"connection": "close"}) from None
            size = len(message.get("body", b""))
            seen += size
            self.held_bytes += size
            whole = not message.get("more_body", False)
            self._check(seen)
            return message

        try:
            await self.app(scope, limited, send)
        finally:
            self.held_bytes -= seen

    def _check(self, seen: int) -> None:
        if seen > self.max_bytes:
            why = f"The body is larger than {self.max_bytes:,} bytes (max_body_mb=)."
            raise HTTPException(413, why)
        if self.held_bytes > MAX_BODIES * self.max_bytes:
            why = "Too many bodies are being received: try again in a moment."
            raise HTTPException(429, why, headers={"retry-after": "1"})
