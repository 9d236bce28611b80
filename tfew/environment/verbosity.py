"""Verbosity for use from programs: tables and progress bars follow the level of the logger `tfew`."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


def is_quiet() -> bool:
    """Whether the logger shows warnings only."""
    return logging.getLogger("tfew").level > logging.INFO


def bar_options() -> dict[str, bool]:
    """Options for tqdm that hide the bar in quiet mode; otherwise TQDM_DISABLE in the environment decides."""
    return {"disable": True} if is_quiet() else {}


@contextmanager
def quiet() -> Iterator[None]:
    """A context in which only warnings are logged."""
    log = logging.getLogger("tfew")
    before = log.level
    log.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        log.setLevel(before)
