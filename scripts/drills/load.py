"""Load on a service by many clients in one thread; records each answer and its time."""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

PATIENCE_SECONDS = 90.0


@dataclass(frozen=True)
class Asked:
    """An item for /predict, and its label and probability by the predictor itself."""

    item: dict[str, Any]
    label: str
    probability: float


@dataclass(frozen=True)
class Answered:
    """`status` 0: there was no answer. `right`: whether it was 200 and the predictor's own."""

    asked: Asked
    status: int
    right: bool
    began: float
    seconds: float


def request_bytes(asked: Asked, headers: str = "") -> bytes:
    body = json.dumps(asked.item).encode()
    head = f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}content-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class Load:
    """`clients` connections to a port, each asking for one item after the other, until `requests` were asked or
    `seconds` have gone. Nothing is asked twice."""

    def __init__(
        self, port: int, asked: Sequence[Asked], clients: int, requests: int | None = None, seconds: float | None = None
    ) -> None:
        self._port, self._asked, self._clients = port, asked, clients
        self._requests, self._seconds = requests, seconds
        self.answers: list[Answered] = []

    def run(self) -> list[Answered]:
        asyncio.run(self._all())
        return self.answers

    async def _all(self) -> None:
        end = None if self._seconds is None else time.monotonic() + self._seconds
        numbers = iter(count() if self._requests is None else range(self._requests))
        await asyncio.gather(*(self._one(numbers, end) for _ in range(self._clients)))

    async def _one(self, numbers: Iterator[int], end: float | None) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for number in numbers:
            if end is not None and time.monotonic() > end:
                break
            asked = self._asked[number % len(self._asked)]
            began = time.monotonic()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    streams = streams or await asyncio.open_connection("127.0.0.1", self._port)
                    status, body, keeps = await _exchange(*streams, request_bytes(asked))
            except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
                status, body, keeps = 0, b"", False
            right = status == 200 and is_right(asked, body)
            self.answers.append(Answered(asked, status, right, began, time.monotonic() - began))
            if not keeps and streams is not None:
                streams[1].close()
                streams = None
        if streams is not None:
            streams[1].close()


def is_right(asked: Asked, body: bytes) -> bool:
    (found,) = json.loads(body)["labels"]
    near = abs(found["probability"] - asked.probability) < 1e-4
    return near and (found["task"], found["label"]) == (asked.item["task"], asked.label)


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bytes, bool]:
    """Status, body, and whether the connection is kept."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    first, *lines = head.splitlines()
    headers = dict(line.split(": ", 1) for line in lines if ": " in line)
    body = await reader.readexactly(int(headers["content-length"]))
    return int(first.split(" ")[1]), body, headers.get("connection") != "close"


def percentiles(answers: Sequence[Answered]) -> tuple[float, ...]:
    """Of the seconds: the 50th, the 95th, the 99th, and the longest."""
    seconds = sorted(answer.seconds for answer in answers)
    return tuple(seconds[min(len(seconds) - 1, int(len(seconds) * part))] for part in (0.5, 0.95, 0.99, 1))
