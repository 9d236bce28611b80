"""JSON bodies: bounded before parsing, and large ones parsed outside the event loop.

A body of a few megabytes can hold millions of values. Python and pydantic would make an object, or an error, for each,
and answer no other client meanwhile. So the values are counted first, up to the limit.
"""

import asyncio
import json
import re
from functools import partial
from typing import Any, NoReturn, TypeVar

from fastapi import HTTPException, Request
from pydantic import TypeAdapter, ValidationError

from tfew.service.messages import format_validation_error

T = TypeVar("T")
SMALL_BYTES = 16_384  # parsed in the event loop: a thread would take longer
MAX_DEPTH = 64
MAX_KEYS = 16  # of the request and of an item; a row's keys are data
MAX_SIGNS_PER_ITEM = 400  # strings, brackets, commas and colons: about a hundred values
MIN_SIGNS = 8_000
# possessive: a string is scanned once, whatever it contains
SIGN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{},:]', re.S)


async def read_json(request: Request, kind: TypeAdapter[T], max_items: int) -> T:
    """The body as `kind`; raises HTTPException: 413 for too many items or values, 422 for an invalid body."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(422, "The body is not JSON: its content-type is not application/json.")
    body = await request.body()
    parse = partial(parse_body, body, kind, max_items)
    return parse() if len(body) <= SMALL_BYTES else await asyncio.to_thread(parse)


def parse_body(body: bytes, kind: TypeAdapter[T], max_items: int) -> T:
    _check_signs(body, max(MIN_SIGNS, MAX_SIGNS_PER_ITEM * max_items))
    found = _parse(body)
    _check_items(found, max_items)
    try:
        return kind.validate_python(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise HTTPException(422, format_validation_error(first)) from None


def _check_signs(body: bytes, most: int) -> None:
    depth = 0
    for number, sign in enumerate(SIGN.finditer(body), start=1):
        first = body[sign.start()]
        depth += (first in b"[{") - (first in b"]}")
        if number > most:
            raise HTTPException(
                413, f"The body has more than {most:,} JSON strings and punctuation marks (max_items=)."
            )
        if depth > MAX_DEPTH:
            raise HTTPException(422, f"The body is nested more than {MAX_DEPTH} deep.")


def _parse(body: bytes) -> Any:
    try:
        found = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except json.JSONDecodeError as error:
        raise HTTPException(422, f"The body is not valid JSON at its character {error.pos}: {error.msg}.") from None
    except UnicodeDecodeError as error:
        raise HTTPException(422, f"The body is not UTF-8 at its byte {error.start}.") from None
    except UnicodeEncodeError:
        raise HTTPException(422, "A text holds half of a surrogate pair, which is not a character.") from None
    except (ValueError, RecursionError):  # a number with thousands of digits, or beyond floats
        raise HTTPException(422, "The body holds NaN, an infinity or a number with too many digits.") from None
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _check_items(found: Any, max_items: int) -> None:
    items = found.get("items") if isinstance(found, dict) else None
    items = items if isinstance(items, list) else []
    if len(items) > max_items:
        raise HTTPException(413, f"{len(items):,} items are more than {max_items:,} (max_items=).")
    for part in (found, *items):
        if isinstance(part, dict) and len(part) > MAX_KEYS:
            raise HTTPException(422, f"The request or one of its items has {len(part):,} keys.")
