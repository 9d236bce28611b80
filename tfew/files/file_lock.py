"""The operating system's own lock on an open file (flock): it dies with its owner."""

import errno
import logging
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger(__name__)

HAS_LOCKS = fcntl is not None
UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


def try_lock(descriptor: int) -> bool:
    """Locks an open file unless another process holds it; whether it is now held here.

    Where there are no locks, a note says so, and nothing is locked.
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


def note_no_locks(where: str) -> None:
    log.info(f"Note: no locks {where}; nothing keeps two processes from making the same run.")
