"""The folder of the parts: local, or in an object store. Each file is written atomically."""

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
    """`folder`: a path or a URL. Any number of processes may write; if two write the same file, one version remains."""

    def __init__(self, folder: str) -> None:
        self.folder = folder.rstrip("/") or "/"
        self._system: Any = None  # fsspec's; None: a local folder
        self._root = ""
        if is_url(folder):
            self._system, self._root = file_system(self.folder)
        self._lock: BinaryIO | None = None

    def __getstate__(self) -> str:
        return self.folder

    def __setstate__(self, folder: str) -> None:
        self.__init__(folder)  # type: ignore[misc]

    def lock(self) -> None:
        """Raises UserError if another process holds it; an object store has no locks."""
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
            with suppress(OSError):  # the folder is not empty
                Path(self.folder).rmdir()

    def put(self, name: str, source: BinaryIO) -> None:
        """Stores the file `source`, from its beginning, under this name."""
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
        """The names of all files; half-written ones of killed processes are removed first."""
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
