"""What a request may be, and how long it may take; configs/serve.yaml has the same with words for each."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True)
class Limits:
    """`timeout_seconds`: for the body to come, and again for its rows to be labelled.

    `hosts`: names that the service may be called by. `manage`: the folder below which adapters may be added over HTTP;
    None: none may.
    """

    most_items: int
    most_body_bytes: int
    timeout_seconds: float
    hosts: tuple[str, ...]
    manage: Path | None


class BodyLimit:
    """ASGI middleware: a body raises 413 as soon as more than `most_bytes` were read, whatever its sender says of its
    length, and 408 where it is not there after `most_seconds`."""

    def __init__(self, app: ASGIApp, most_bytes: int, most_seconds: float) -> None:
        self.app, self.most_bytes, self.most_seconds = app, most_bytes, most_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen, whole = 0, False
        deadline = asyncio.get_running_loop().time() + self.most_seconds

        async def limited() -> Message:
            nonlocal seen, whole
            try:
                async with asyncio.timeout_at(None if whole else deadline):  # afterwards it waits for the end
                    message = await receive()
            except TimeoutError:
                why = f"The body did not come within {self.most_seconds:g} s (timeout_seconds=)."
                raise HTTPException(408, why, headers={"connection": "close"}) from None
            seen += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if seen > self.most_bytes:
                raise HTTPException(413, f"The body is larger than {self.most_bytes:,} bytes (max_body_mb=).")
            return message

        await self.app(scope, limited if scope["type"] == "http" else receive, send)
