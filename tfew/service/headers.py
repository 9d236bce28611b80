"""Headers of every response: the request's id, no caching, no content sniffing."""

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = "x-request-id"
GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
ALWAYS = {"x-content-type-options": "nosniff", "cache-control": "no-store"}


class HeadersMiddleware:
    """ASGI middleware: keeps the client's request id if it is plain, else generates one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = scope["tfew.request_id"] = given if GOOD_ID.fullmatch(given) else uuid.uuid4().hex

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update({**ALWAYS, REQUEST_ID: request_id})
            await send(message)

        await self.app(scope, receive, with_headers)
