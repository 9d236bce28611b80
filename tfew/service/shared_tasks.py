"""The tasks added and removed over HTTP, stored in the managed folder for every process and replica.

    MANAGE/.tfew/tasks.json       the wanted tasks, with a version
    MANAGE/.tfew/lock             held while changing it
    MANAGE/.tfew/members/NAME     per process: its version; the file's age shows whether the process is alive

A change of a task waits until each living member has the new version, so that the response holds for all of them.
"""

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfew.errors import UserError
from tfew.files.atomic import write_atomically
from tfew.files.file_lock import try_lock
from tfew.files.regular import read_text
from tfew.files.untrusted import parse_json

FOLDER = ".tfew"
BASE = ""  # the version of a task that adapters= names
MAX_FILE_BYTES = 10**7
SILENT_SECONDS = 10.0  # a member that was silent for this long counts as ended
CANNOT_READ, NOT_YET = "cannot read it", "has not loaded it yet"  # why a member lags behind
FORGOTTEN_SECONDS = 3600.0  # after this its file is removed


@dataclass(frozen=True)
class AddedTask:
    """`folder`: of its adapter, relative to the managed one; `version`: the version that added it."""

    folder: str
    version: str


@dataclass(frozen=True)
class SharedState:
    version: str = BASE
    added: Mapping[str, AddedTask] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()  # of those that adapters= names

    def wanted(self, base: Iterable[str]) -> dict[str, str]:
        """The version of each wanted task; `base`: the tasks of adapters=."""
        own = {name: BASE for name in base if name not in self.removed}
        return {**own, **{name: task.version for name, task in self.added.items()}}

    def with_task(self, name: str, folder: str) -> "SharedState":
        version = secrets.token_hex(8)
        return SharedState(version, {**self.added, name: AddedTask(folder, version)}, self.removed)

    def without_task(self, name: str) -> "SharedState":
        added = {other: task for other, task in self.added.items() if other != name}
        return SharedState(secrets.token_hex(8), added, self.removed | {name})

    def again(self) -> "SharedState":
        """The same state as a new version, to undo later changes."""
        return SharedState(secrets.token_hex(8), self.added, self.removed)


class LockedError(Exception):
    """Another process is changing the tasks."""


class SharedTasks:
    """`base`: the folders of the tasks of adapters=; `member`: the name of this process among the members of the
    managed folder."""

    def __init__(self, manage: Path, base: Mapping[str, str | Path], member: str | None = None) -> None:
        """Raises UserError if the folder is not writable."""
        self.base = base
        self._root = manage / FOLDER
        self._members = self._root / "members"
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}" if member is None else member
        self._own = self._members / name
        self._seen: tuple[int, int, int] | None = None
        self._state = SharedState()
        try:
            self._root.mkdir(mode=0o700, exist_ok=True)
            if self._root.is_symlink():
                raise OSError("it is a link")
            self._members.mkdir(mode=0o700, exist_ok=True)
            self._lock().close()
        except OSError as error:
            raise UserError(f"{self._root} cannot be used ({error}); tasks that are added are kept there.") from error

    def read(self) -> SharedState:
        """The wanted tasks; raises UserError if the file is damaged."""
        path = self._root / "tasks.json"
        try:
            status = path.stat()
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen != self._seen:
                self._state, self._seen = _parsed(read_text(path, MAX_FILE_BYTES)), seen
            return self._state
        except FileNotFoundError:
            self._seen = None
            return SharedState()
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} cannot be read ({error}): delete it to begin with adapters= alone.") from error

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Holds the lock for a change; raises LockedError if another process holds it."""
        with contextlib.closing(self._lock()) as file:
            if not try_lock(file.fileno()):
                raise LockedError
            yield

    def write(self, state: SharedState) -> None:
        added = {name: {"folder": task.folder, "version": task.version} for name, task in state.added.items()}
        whole = {"version": state.version, "added": added, "removed": sorted(state.removed)}
        write_atomically(self._root / "tasks.json", json.dumps(whole, indent=1, ensure_ascii=False))

    def acknowledge(self, version: str, failed: Iterable[str] = ()) -> None:
        """Records that this process is alive and has this version, except the tasks that it could not read."""
        write_atomically(self._own, json.dumps({"version": version, "failed": sorted(failed)}))

    def lagging(self, version: str, name: str | None = None) -> dict[str, str]:
        """Living members without this version, or without this task in it, and why."""
        found: dict[str, str] = {}
        now = self._now()
        for path in self._members.iterdir():
            try:
                age = now - path.stat().st_mtime
                said: Any = parse_json(read_text(path, MAX_FILE_BYTES))
                if path.name.startswith(".") or age > SILENT_SECONDS:
                    if age > FORGOTTEN_SECONDS:
                        path.unlink(missing_ok=True)
                elif said["version"] != version:
                    found[path.name] = NOT_YET
                elif name in said["failed"]:
                    found[path.name] = CANNOT_READ
            except (OSError, ValueError, TypeError, KeyError):  # it has just ended; or it is not a member's file
                continue
        return found

    def leave(self) -> None:
        with suppress(OSError):
            self._own.unlink(missing_ok=True)

    def _now(self) -> float:
        """The time by the clock that stamps the members' files, which may be another machine's."""
        try:
            os.utime(self._own)
            return self._own.stat().st_mtime
        except OSError:
            return time.time()

    def _lock(self) -> Any:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        return os.fdopen(os.open(self._root / "lock", flags, 0o600), "r+b")


def _parsed(text: str) -> SharedState:
    whole = parse_json(text)
    added = {name: AddedTask(str(task["folder"]), str(task["version"])) for name, task in whole["added"].items()}
    return SharedState(str(whole["version"]), added, frozenset(map(str, whole["removed"])))
