"""How much a program wants to see: tables and progress bars go with the messages of the logger `tfew`."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tfew.devices.distributed import is_main_process


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
