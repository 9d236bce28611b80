"""Bodies of at most so many bytes, whatever their sender says of their length."""

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """ASGI middleware: a body of more than `most_bytes` raises 413 as soon as that many were read."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self.app, self.most_bytes = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.most_bytes:
                raise HTTPException(413, f"The body is larger than {self.most_bytes:,} bytes (max_body_mb=).")
            return message

        await self.app(scope, counted, send)
