"""A lock that allows one process per run. It ends with its owner, so a killed run blocks nobody and needs no repair.

It is the operating system's flock on a small file. It works between processes of one machine on any file system, and
between machines if the file system forwards locks: NFS does unless mounted with nolock, Lustre with flock.
Without lock support (Windows), a note is logged and nothing is locked.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from tfew.errors import UserError
from tfew.files.atomic import write_error
from tfew.files.file_lock import HAS_LOCKS, note_no_locks, try_lock

LOCK_FILE = ".lock"  # in a run folder, while the run is being made


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
            with suppress(OSError):  # if not empty
                path.rmdir()


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Holds a lock on this file, which exists while it is held, or until a killed owner's successor removes it."""
    if not HAS_LOCKS:  # an open file could not be removed either
        note_no_locks("here")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
        return
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
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the folder was removed when its owner ended
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
    """Retries briefly: `is_locked` holds the lock for a moment, too."""
    for _ in range(5):
        if try_lock(descriptor):
            return True
        time.sleep(0.02)
    return False


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _describe_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}"
