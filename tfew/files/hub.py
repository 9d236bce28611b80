"""A quick test whether the Hugging Face Hub answers, and retries of failed requests.

The libraries retry a dead connection for most of a minute. Here one request is made: if it is not answered, they are
switched to offline mode, in which cached copies are used and a missing one is an immediate error.
"""

import functools
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")

ANSWER_TIMEOUT_SECONDS = 10.0  # for the connection, and again for the answer; then only cached copies are used
WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0)  # before retries of a failed request
LONGEST_WAIT_SECONDS = 60.0  # the longest wait that the Hub may ask for
BUSY = {408, 429, 500, 502, 503, 504}  # temporary HTTP statuses
SET_HERE = "TFEW_HUB_NOT_REACHED"  # in the environment
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
OFFLINE_FLAGS = (("huggingface_hub.constants", "HF_HUB_OFFLINE"), ("datasets.config", "HF_HUB_OFFLINE"))


@functools.cache
def reachable() -> bool:
    """Whether the Hub answers (through a proxy, if the environment sets one); if not, logs it once.

    An explicit offline mode counts as no answer.
    """
    if is_offline():
        return False
    if (reason := why_no_answer(ANSWER_TIMEOUT_SECONDS)) is not None:
        log.info(f"The Hub ({endpoint()}) cannot be reached ({reason}); using cached copies only.")
        _go_offline()
        return False
    return True


def endpoint() -> str:
    """The Hub's address, or that of its mirror (HF_ENDPOINT)."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def why_no_answer(timeout_seconds: float) -> str | None:
    """The error of one request to the Hub; None if it is answered."""
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import get_session

    try:
        get_session().head(endpoint(), timeout=timeout_seconds)
    except (HTTPError, OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return None


def why_offline() -> str:
    """The reason why the Hub is not reachable."""
    return "offline mode is on (HF_HUB_OFFLINE)" if is_set_offline() else "the Hub cannot be reached"


def is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}


def is_set_offline() -> bool:
    """Whether offline mode was set by the user, not by this module."""
    return is_offline() and SET_HERE not in os.environ


def _go_offline() -> None:
    os.environ[SET_HERE] = "1"  # for processes that this one starts, too
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported ...
    for module, name in OFFLINE_FLAGS:
        if module in sys.modules:  # ... so a module that is already imported must be changed, too
            setattr(sys.modules[module], name, True)


def patiently(call: Callable[[], T], what: str, waits: Sequence[float] | None = None) -> T:
    """Calls `call` and returns its result; retries, with a log line, if the Hub is busy or the connection breaks."""
    for wait in WAITS_SECONDS if waits is None else waits:
        try:
            return call()
        except Exception as error:
            if (passing := passing_trouble(error)) is None:
                raise
            reason, asked_for = passing
            seconds = max(wait, asked_for)
            log.info(f"{what}: {reason}; once more in {seconds:.0f} s.")
            time.sleep(seconds)
    return call()


def passing_trouble(error: BaseException) -> tuple[str, float] | None:
    """The reason of a temporary error, and the seconds that the Hub asks to wait; None for any other error."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    for one in chain(error):
        if isinstance(one, HfHubHTTPError):
            status, asked = one.response.status_code, one.response.headers.get("Retry-After", "")
            seconds = min(float(asked), LONGEST_WAIT_SECONDS) if asked.isdigit() else 0.0
            return (f"the Hub answers {status}", seconds) if status in BUSY else None
        if isinstance(one, HTTPError):
            return f"the connection broke ({str(one) or type(one).__name__})", 0.0
        if "Consistency check failed" in str(one):
            return "a file came incompletely", 0.0
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes: the libraries nest the actual cause deeply."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def hub_id(path: str | None) -> str | None:
    """`path` if it is the id of a model on the Hub and not a local folder."""
    return path if path and HUB_ID.fullmatch(path) and not Path(path).exists() else None
