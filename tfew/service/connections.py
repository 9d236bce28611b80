"""Connections: how many there are, and how long one may be idle, be sending its headers, or not take its answer.

uvicorn closes what is idle after an answer, but not what never asks. At the limit of file descriptors nobody could
connect any more, so there are fewer connections than descriptors, and an idle one makes room: of the address that has
the most, the one that is idle the longest. Somebody else's, which has just come and has not asked yet, stays.
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
    """`idle_seconds`: for headers to come, and between two requests; `answer_seconds`: for an answer to be taken."""

    most: int
    idle_seconds: float
    answer_seconds: float


@dataclass
class Connections:
    """All that are open, and what became of others."""

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
        # not waiting for what was never taken: the kernel would keep it for minutes, and the client learn of it late
        with suppress(OSError):  # of a socket that is closed already
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
    """uvicorn's, with httptools where that is installed; its class attribute `all` is set by `limited_protocol`."""

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
        self._note_request()  # one that was sent behind the last begins now

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
        """When it was first seen that something waits to be taken; None where nothing does, or an answer ended since.

        Requests that are sent one behind the other, and no answer read, fill the buffer without one that has begun.
        """
        waits = self.transport.get_write_buffer_size() > 0
        self._answering_since = (self._answering_since or now) if waits else None
        return self._answering_since


def limited_protocol(limits: ConnectionLimits) -> tuple[type[LimitedProtocol], Connections]:
    """The class for uvicorn's `http=`, and the connections that it makes."""
    connections = Connections(limits)
    return type("OfThisServer", (LimitedProtocol,), {"all": connections}), connections


def connections_that_fit(wanted: int) -> int:
    """So many, or as many as this process may have descriptors for: the soft limit is raised where it can be."""
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
