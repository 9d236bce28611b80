"""Limits of connections: their number, and how long one may be idle, send headers, or leave its response unread.

uvicorn closes connections that are idle after a response, but not those that never send a request. At the limit of file
descriptors nobody could connect any more, so there are fewer connections than descriptors, and at the limit an idle one
is closed: of the address with the most, the one idle for longest. A new connection of another address stays.
"""

import asyncio
import logging
import socket
import struct
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from uvicorn.protocols.http.auto import AutoHTTPProtocol

log = logging.getLogger(__name__)

MAX_HEADER_BYTES = 65_536
RESET_AT_ONCE = struct.pack("ii", 1, 0)  # linger for 0 seconds
KEPT_DESCRIPTORS = 128  # for files, the model and libraries


@dataclass(frozen=True)
class ConnectionLimits:
    """`idle_seconds`: for headers to arrive; `answer_seconds`: for a response to be read."""

    most: int
    idle_seconds: float
    answer_seconds: float


@dataclass
class Connections:
    """All open connections, and counts of closed ones."""

    limits: ConnectionLimits
    open: "set[LimitedProtocol]" = field(default_factory=set)
    closed_idle: int = 0

    def made(self, connection: "LimitedProtocol") -> None:
        self.open.add(connection)
        if len(self.open) > self.limits.most:
            of_address = Counter(other.address for other in self.open)
            idle = [other for other in self.open if other.idle_since is not None]
            self.close(max(idle, key=lambda other: (of_address[other.address], -(other.idle_since or 0))))

    def close(self, connection: "LimitedProtocol") -> None:
        self.closed_idle += 1
        self.open.discard(connection)
        # reset at once: otherwise the kernel keeps unread data for minutes, and the client notices late
        with suppress(OSError):  # the socket is already closed
            own = connection.transport.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_ONCE)
        connection.transport.abort()

    def close_overdue(self) -> None:
        now = time.monotonic()
        for connection in list(self.open):
            idle, answering = connection.idle_since, connection.answering_since(now)
            if (idle is not None and now - idle > self.limits.idle_seconds) or (
                answering is not None and now - answering > self.limits.answer_seconds
            ):
                self.close(connection)


class LimitedProtocol(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """uvicorn's protocol, with httptools if installed; `limited_protocol` sets its class attribute `all`."""

    all: Connections

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.idle_since: float | None = time.monotonic()
        self._answering_since: float | None = None
        self._in_headers, self._header_bytes = False, 0
        self.all.made(self)

    @property
    def address(self) -> str:
        """The client's, without its port."""
        return self.client[0] if self.client else ""

    def connection_lost(self, exc: Exception | None) -> None:
        self.all.open.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._note_request()
        self._header_bytes += len(data) if self._in_headers else 0
        if self._header_bytes > MAX_HEADER_BYTES:
            self.all.close(self)

    def on_response_complete(self) -> None:
        self.idle_since, self._answering_since = time.monotonic(), None
        super().on_response_complete()
        self._note_request()  # a pipelined request starts now

    def _note_request(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.idle_since = None

    # httptools calls these two; h11 bounds headers itself

    def on_message_begin(self) -> None:
        self._in_headers, self._header_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        super().on_headers_complete()

    def answering_since(self, now: float) -> float | None:
        """When unread response data was first seen; None if there is none, or if a response has ended since.

        Pipelined requests whose responses are not read fill the buffer even when no response is in progress.
        """
        waits = self.transport.get_write_buffer_size() > 0
        self._answering_since = (self._answering_since or now) if waits else None
        return self._answering_since


def limited_protocol(limits: ConnectionLimits) -> tuple[type[LimitedProtocol], Connections]:
    """The class for uvicorn's `http=`, and the connections that it makes."""
    connections = Connections(limits)
    return type("OfThisServer", (LimitedProtocol,), {"all": connections}), connections


def connections_that_fit(wanted: int) -> int:
    """`wanted`, or as many as file descriptors allow; the soft limit is raised if possible."""
    try:
        import resource
    except ImportError:  # Windows
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + KEPT_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    fit = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft - KEPT_DESCRIPTORS)
    if fit < wanted:
        log.warning(f"max_connections={wanted}: {fit} fit the limit of {soft} file descriptors (ulimit -n).")
    return max(1, fit)
