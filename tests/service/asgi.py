"""One request to an app without a server: its client can go away, and the event loop can be watched meanwhile."""

import asyncio
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message


async def ask(
    app: ASGIApp, path: str, body: bytes, kind: str = "application/json", gone: asyncio.Event | None = None,
    headers: Iterable[tuple[bytes, bytes]] = (), client: str = "10.0.0.1",
) -> tuple[int, bytes]:  # fmt: skip
    """Status and body of the answer to a POST; `gone`: set once the client disconnects."""
    path, _, query = path.partition("?")
    given = [(b"host", b"testserver"), (b"content-type", kind.encode()), *headers]
    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": query.encode(), "http_version": "1.1",
        "headers": given, "client": (client, 1), "scheme": "http", "server": ("testserver", 80), "root_path": "",
    }  # fmt: skip
    to_come = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Any:
        if to_come:
            return to_come.pop()
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


async def longest_pause(stop: asyncio.Event) -> float:
    """Seconds for which the event loop answered nobody, until `stop`."""
    loop, longest = asyncio.get_running_loop(), 0.0
    while not stop.is_set():
        before = loop.time()
        await asyncio.sleep(0.001)
        longest = max(longest, loop.time() - before)
    return longest
