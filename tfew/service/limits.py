"""Limits of a request's size and time; configs/serve.yaml documents each."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True)
class Limits:
    """`timeout_seconds`: for the body to arrive, and again for its rows to be labelled.

    `allowed_hosts`: accepted Host headers. `manage`: the folder below which adapters may be added over HTTP; None: no
    adapters may be added.
    """

    max_items: int
    max_body_bytes: int
    timeout_seconds: float
    allowed_hosts: tuple[str, ...]
    manage: Path | None


class BodyLimitMiddleware:
    """ASGI middleware: a body raises 413 as soon as more than `max_bytes` were read, whatever its Content-Length says,
    and 408 if it has not arrived after `timeout_seconds`."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_seconds: float) -> None:
        self.app, self.max_bytes, self.timeout_seconds = app, max_bytes, timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen, whole = 0, False
        deadline = asyncio.get_running_loop().time() + self.timeout_seconds

        async def limited() -> Message:
            nonlocal seen, whole
            try:
                async with asyncio.timeout_at(
                    None if whole else deadline
                ):  # after the body, receive() waits for the disconnect
                    message = await receive()
            except TimeoutError:
                why = f"The body did not come within {self.timeout_seconds:g} s (timeout_seconds=)."
                raise HTTPException(408, why, headers={"connection": "close"}) from None
            seen += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if seen > self.max_bytes:
                raise HTTPException(413, f"The body is larger than {self.max_bytes:,} bytes (max_body_mb=).")
            return message

        await self.app(scope, limited if scope["type"] == "http" else receive, send)
