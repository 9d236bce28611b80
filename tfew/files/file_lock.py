"""The operating system's own lock on an open file (flock): it dies with its owner."""

import errno
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger(__name__)

HAS_LOCKS = fcntl is not None
POLL_SECONDS = 0.2
UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


def try_lock(descriptor: int) -> bool:
    """Locks an open file unless another process holds it; returns whether it is now held here.

    Without lock support, a note is logged, and nothing is locked.
    """
    if not HAS_LOCKS:
        note_no_locks("here")
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        note_no_locks("on this file system")
    return True


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """A context that holds the lock on this file, waiting for it if necessary. The file is not removed."""
    with path.open("ab") as file:
        while not try_lock(file.fileno()):
            time.sleep(POLL_SECONDS)
        yield


def note_no_locks(where: str) -> None:
    log.info(f"Note: no locks {where}; nothing keeps two processes from making the same run.")
