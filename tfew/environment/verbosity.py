"""How much a program wants to see: tables and progress bars go with the messages of the logger `tfew`."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


def is_quiet() -> bool:
    """Whether the logger is set to warnings alone."""
    return logging.getLogger("tfew").level > logging.INFO


def bar_options() -> dict[str, bool]:
    """For tqdm: to hide a bar; otherwise TQDM_DISABLE, the environment's, decides."""
    return {"disable": True} if is_quiet() else {}


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, only warnings are said."""
    log = logging.getLogger("tfew")
    before = log.level
    log.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        log.setLevel(before)
