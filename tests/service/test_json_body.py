"""Bodies within the limit of bytes that hold more than may be parsed: refused before an object is made for each."""

import asyncio
import json
import time
import tracemalloc

import pytest
from fastapi import HTTPException

from tests.service.asgi import ask, longest_pause
from tests.service.stubs import Recorder
from tfew.service.app import PREDICT_BODY, make_app
from tfew.service.json_body import MAX_DEPTH, parse_body
from tfew.service.limits import Limits
from tfew.service.metrics import Metrics
from tfew.service.queue import LabelQueue

LIMITS = Limits(256, 8_000_000, 60.0, ("testserver",), None)
MEGA = 2_500_000
BOMBS = {
    "empty items": (b'{"items":[' + b"{}," * MEGA + b"{}]}", 413),
    "numbers": (b"[" + b"1," * MEGA + b"1]", 413),
    "lists in a row": (b'{"task":"t","row":{"x":[' + b"[]," * MEGA + b"[]]}}", 413),
    "keys": (b'{"a":1' + b',"a":1' * 1_000_000 + b"}", 413),
    "strings": (b"[" + b'"",' * MEGA + b'""]', 413),
    "quotation marks": (b'"' * 7_900_000, 413),
    "depth": (b"[" * 7_900_000, 422),
    "items": (json.dumps({"items": [{"task": "t", "text": "x"}] * 257}).encode(), 413),
    "digits": (b"9" * 7_900_000, 422),
    "backslashes": (b'"' + b"\\" * 7_900_000, 422),
    "half a pair": (b'{"task":"t","text":"\\ud800"}', 422),
    "half a pair as a key": (b'{"task":"t","row":{"\\udfff":1}}', 422),
    "infinity": (b'{"task":"t","row":{"x":1e999}}', 422),
    "NaN": (b'{"task":"t","row":{"x":NaN}}', 422),
    "another encoding": ('{"task":"t","text":"x"}'.encode("utf-16"), 422),
    "keys of an item": (json.dumps({"items": [{str(number): 1 for number in range(200)}]}).encode(), 422),
}


@pytest.mark.parametrize("name", BOMBS)
def test_it_is_refused_in_a_moment_and_in_little_memory(name: str) -> None:
    body, status = BOMBS[name]
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(HTTPException) as refused:
        parse_body(body, PREDICT_BODY, 256)
    took, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.status_code == status
    assert took < 2
    assert peak < 40e6


def test_as_many_values_as_the_limit_promises_are_taken() -> None:
    rows = [{"task": "t", "row": {f"column {number}": "[,]" * 300 for number in range(90)}}] * 256
    assert len(parse_body(json.dumps({"items": rows}).encode(), PREDICT_BODY, 256).items) == 256
    deep = {"task": "t", "row": {"x": json.loads("[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2))}}
    assert parse_body(json.dumps(deep).encode(), PREDICT_BODY, 256).row == deep["row"]


@pytest.mark.parametrize("name", ["empty items", "lists in a row", "whole"])
def test_others_are_answered_meanwhile(name: str) -> None:
    whole = json.dumps({"items": [{"task": "nobody", "text": "a, [b] " * 4000}] * 256}).encode()
    body, status = BOMBS.get(name, (whole, 404))
    queue = LabelQueue(Recorder(), 2048, 16)  # type: ignore[arg-type]
    app = make_app(queue, Metrics(), LIMITS)

    async def story() -> tuple[int, float]:
        stop = asyncio.Event()
        watching = asyncio.create_task(longest_pause(stop))
        found, _ = await ask(app, "/predict", body)
        stop.set()
        return found, await watching

    found, pause = asyncio.run(story())
    assert found == status
    assert pause < 1
    queue.close()
