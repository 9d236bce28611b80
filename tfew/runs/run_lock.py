"""One process per run: a lock that ends with its owner, so that a killed run blocks nobody and needs no repair.

It is the operating system's flock on a small file. It holds between processes of one machine on any file system, and
between machines if the file system supports it: NFS unless mounted with nolock, Lustre with flock. Without any locks a
note is logged and nothing is locked.
"""

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from tfew.errors import UserError
from tfew.files.atomic import write_error

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"  # in a run folder, while the run is being made
UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


class RunLocked(UserError):
    """Another process holds the lock."""

    def __init__(self, path: Path, owner: str) -> None:
        super().__init__(
            f"{path.parent} is being worked on by {owner or 'another process'}: wait for it to end, or choose another"
            " place with runs= or run_dir=."
        )
        self.folder = path.parent


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Locks a run folder, which is made if it does not exist; new folders that stay empty are removed again.

    Raises RunLocked if another process holds the lock, UserError if the folder cannot be written.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with lock_file(folder / LOCK_FILE):
            yield
    finally:
        for path in missing:
            with suppress(OSError):  # of what is not empty
                path.rmdir()


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Locks this file, which is created, and removed on release; a killed owner's file is removed by the next."""
    descriptor = _acquire(path)
    try:
        yield
    finally:
        # removed before it is released, so that a process that opened it meanwhile sees that it is gone; forked
        # children have it open, too
        path.unlink(missing_ok=True)
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock on this file."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the folder went as its owner ended
            continue
        except OSError as error:
            raise write_error(path.parent, error) from error
        try:
            if not _lock(descriptor):
                raise RunLocked(path, os.read(descriptor, 1000).decode(errors="replace"))
            if _is_same_file(path, descriptor):
                os.truncate(descriptor, 0)
                os.write(descriptor, _describe_process().encode())
                return os.dup(descriptor)
        except OSError as error:
            raise write_error(path.parent, error) from error
        finally:
            os.close(descriptor)
        # else its owner removed it after it was opened here: try the new one


def _lock(descriptor: int) -> bool:
    """Retries for a moment: `is_locked` holds the lock briefly, too."""
    for _ in range(5):
        if _try_lock(descriptor):
            return True
        time.sleep(0.02)
    return False


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        log.info("Note: no locks on this file system; nothing keeps two processes from making the same run.")
    return True


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _describe_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}"
