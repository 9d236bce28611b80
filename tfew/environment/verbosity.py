"""Verbosity for use from programs: tables and progress bars follow the level of the logger `tfew`."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def is_quiet() -> bool:
    """Whether the logger shows warnings only."""
    return logging.getLogger("tfew").level > logging.INFO


def bar_options() -> dict[str, bool]:
    """Options for tqdm that hide the bar in quiet mode; otherwise TQDM_DISABLE in the environment decides."""
    return {"disable": True} if is_quiet() else {}


_lock = threading.Lock()
_open, _level = 0, logging.NOTSET  # number of open `quiet` contexts; the level before the first


@contextmanager
def quiet() -> Iterator[None]:
    """A context in which only warnings are logged; those of several threads may overlap."""
    global _open, _level
    log = logging.getLogger("tfew")
    with _lock:
        if not _open:
            _level = log.level
            log.setLevel(max(_level, logging.WARNING))
        _open += 1
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if not _open:
                log.setLevel(_level)
