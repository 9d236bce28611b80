"""The folder that parts are written to: here, or in an object store. Each file appears whole, or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from tfew.errors import UserError
from tfew.files.file_lock import try_lock
from tfew.tables.remote import file_system, is_url, store_errors

LOCK = ".lock"
COPY_BYTES = 2**22


class PartStore:
    """`folder`: a path or a URL. Any number of processes may write; two that write the same file leave one of them."""

    def __init__(self, folder: str) -> None:
        self.folder = folder.rstrip("/") or "/"
        self._system: Any = None  # fsspec's; None: of this machine
        self._root = ""
        if is_url(folder):
            self._system, self._root = file_system(self.folder)
        self._lock: BinaryIO | None = None

    def __getstate__(self) -> str:
        return self.folder

    def __setstate__(self, folder: str) -> None:
        self.__init__(folder)  # type: ignore[misc]

    def lock(self) -> None:
        """Raises UserError where another process holds it; an object store has no locks."""
        if self._system is not None:
            return
        path = self._path(LOCK)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.open("ab")
        except OSError as error:
            raise self._cannot_write(error) from error
        if not try_lock(lock.fileno()):
            lock.close()
            raise UserError(f"output={self.folder} is being written by another process.")
        self._lock = lock

    def unlock(self) -> None:
        if self._lock is not None:
            self._path(LOCK).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None
            with suppress(OSError):  # of what is not empty
                Path(self.folder).rmdir()

    def put(self, name: str, source: BinaryIO) -> None:
        """From its beginning."""
        source.seek(0)
        if self._system is not None:
            with store_errors(self.folder), self._system.open(f"{self._root}/{name}", "wb") as target:
                shutil.copyfileobj(source, target, COPY_BYTES)
            return
        temporary = self._path(f".{name}.{secrets.token_hex(4)}.tmp")
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as target:
                    shutil.copyfileobj(source, target, COPY_BYTES)
                    target.flush()
                    os.fsync(target.fileno())
                os.replace(temporary, self._path(name))
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise self._cannot_write(error) from error

    def open(self, name: str) -> BinaryIO:
        if self._system is not None:
            with store_errors(f"{self.folder}/{name}"):
                file: BinaryIO = self._system.open(f"{self._root}/{name}", "rb")
                return file
        return self._path(name).open("rb")

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def names(self) -> set[str]:
        """Of all files; those that killed processes left half-written are removed first."""
        if self._system is not None:
            self._system.invalidate_cache()
            with store_errors(self.folder):
                found = self._system.find(self._root) if self._system.exists(self._root) else []
            return {path.removeprefix(self._root).lstrip("/") for path in found}
        folder = Path(self.folder)
        for torn in folder.glob(".*.tmp"):
            torn.unlink(missing_ok=True)
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != LOCK}

    def remove(self, names: Iterable[str]) -> None:
        names = sorted(names)
        if self._system is not None:
            if names:
                with store_errors(self.folder):
                    self._system.rm([f"{self._root}/{name}" for name in names])
            return
        for name in names:
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return Path(self.folder) / name

    def _cannot_write(self, error: OSError) -> UserError:
        return UserError(f"output={self.folder} cannot be written ({error.strerror or error}): choose another.")
