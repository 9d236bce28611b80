"""Verbosity for use from programs: tables and progress bars follow the level of the logger `tfew`."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tfew.devices.distributed import is_main_process


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


def messages_to_stderr() -> None:
    """What a command does: its messages, of the first process of a run, and warnings of all, go to standard error."""
    log = logging.getLogger("tfew")
    if not log.handlers:
        log.addHandler(_ToStderr())
        log.setLevel(logging.INFO if is_main_process() else logging.WARNING)
        log.propagate = False


class _ToStderr(logging.Handler):
    """Where standard error goes at the moment: a job of a sweep has it redirected."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)
