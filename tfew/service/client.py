"""A client of the service that needs only Python's standard library.

    with Client("http://127.0.0.1:8000", token="...") as client:
        client.predict([{"task": "spam", "text": "win a prize"}])        one dictionary a row, in order

Requests are retried if the service is too busy or shutting down (429, 503): labelling has no side effects, so this is
safe. A client has one connection: threads that share it wait for each other, and a forked process opens its own.
"""

import json
import os
import random
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit

RETRIED = (429, 503)
LONGEST_PAUSE_SECONDS = 30.0
IDLE_SECONDS = 2.0  # after so long a connection is opened anew: the service closes one that was idle for 5


class ServiceError(Exception):
    """`status`: of the last response; None: there was none. `request_id` is also in the service's log."""

    def __init__(self, status: int | None, detail: str, request_id: str) -> None:
        super().__init__(f"{detail} (status {status}, request {request_id})")
        self.status, self.detail, self.request_id = status, detail, request_id


class Client:
    """`retries`: how often a request is repeated; `cafile`: a certificate to trust besides the system's own;
    `items`: per request, at most the service's limit (max_items=)."""

    def __init__(
        self, url: str, token: str | None = None, retries: int = 5, timeout_seconds: float = 90.0,
        items: int = 256, cafile: str | None = None,
    ) -> None:  # fmt: skip
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url} is not the address of a service, such as http://127.0.0.1:8000")
        if items < 1 or retries < 0:
            raise ValueError(f"items={items} must be at least 1, and retries={retries} at least 0.")
        token = None if token is None else token.strip()  # of a file's line
        if token is not None and not (token.isascii() and token.isprintable()):
            raise ValueError("token= must be a line of ASCII characters.")  # not quoted: it is a secret
        self._prefix, self._token, self._retries, self._items = parts.path.rstrip("/"), token, retries, items
        self._connect: Callable[[], HTTPConnection] = partial(
            HTTPConnection, parts.hostname, parts.port, timeout=timeout_seconds
        )
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=cafile)
            self._connect = partial(
                HTTPSConnection, parts.hostname, parts.port, timeout=timeout_seconds, context=context
            )
        self._open()

    def _open(self) -> None:
        self._process, self._connection, self._used = os.getpid(), self._connect(), time.monotonic()
        self._lock = threading.Lock()  # a response belongs to the request before it

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def predict(self, rows: Iterable[Mapping[str, Any]], inputs: bool = False) -> list[dict[str, Any]]:
        """`rows`: {"task": ..., "text": ...} or {"task": ..., "row": {...}} each; raises ServiceError."""
        every = list(rows)
        found: list[dict[str, Any]] = []
        for start in range(0, len(every), self._items):
            body = {"items": every[start : start + self._items], "inputs": inputs}
            found += json.loads(self._ask("POST", "/predict", body))["labels"]
        return found

    def tasks(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self._ask("GET", "/tasks"))
        return found

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._ask("GET", "/healthz"))
        return found

    def add_task(self, name: str, folder: str, replace: bool = False) -> None:
        """`folder`: of its adapter, relative to the service's manage=; `replace`: replace a task of that name.
        Not retried, since it may have been added."""
        self._ask("POST", "/tasks", {"name": name, "folder": folder, "replace": replace}, retries=0)

    def remove_task(self, name: str) -> None:
        self._ask("DELETE", f"/tasks/{quote(name, safe='')}", retries=0)

    def _ask(self, method: str, path: str, body: Any = None, retries: int | None = None) -> bytes:
        request_id = uuid.uuid4().hex
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        most = self._retries if retries is None else retries
        if self._process != os.getpid():  # a fork, which shares the socket with its parent
            self._open()
        for attempt in range(most + 1):
            with self._lock:
                status, content, pause_seconds = self._once(method, path, data, request_id)
            if status is not None and status < 300:
                return content
            if (status is not None and status not in RETRIED) or attempt == most:
                break
            doubled = min(LONGEST_PAUSE_SECONDS, 0.1 * 2**attempt)
            time.sleep(max(pause_seconds, random.uniform(doubled / 2, doubled)))
        raise ServiceError(status, _detail(content), request_id)

    def _once(self, method: str, path: str, data: bytes | None, request_id: str) -> tuple[int | None, bytes, float]:
        """Status, body and the pause that the service asks for; no status if it did not answer."""
        headers = {"x-request-id": request_id}
        if data is not None:
            headers["content-type"] = "application/json"
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token}"
        if time.monotonic() - self._used > IDLE_SECONDS:
            self._connection.close()
        try:
            self._connection.request(method, self._prefix + path, data, headers)
            with self._connection.getresponse() as answer:
                if answer.headers.get("x-request-id", request_id) != request_id:
                    raise HTTPException("the response is to another request")
                pause = answer.headers.get("retry-after", "0")
                return answer.status, answer.read(), float(pause) if pause.isdecimal() else 0.0
        except (OSError, HTTPException) as error:
            self._connection.close()  # the next request reconnects
            return None, repr(error).encode(), 0.0
        finally:
            self._used = time.monotonic()


def _detail(content: bytes) -> str:
    try:
        return str(json.loads(content)["detail"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace")[:200]
