"""Atomic writes, even if the process is killed or the disk is full."""

import os
import secrets
from pathlib import Path

from tfew.devices.distributed import is_secondary_process
from tfew.errors import UserError


def write_atomically(path: Path, text: str) -> None:
    write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Writes a temporary file and renames it; raises UserError if it cannot be written.

    Of several processes that share a run only the main process writes; the others do nothing.
    """
    if is_secondary_process():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise write_error(path, error) from error


def remove_temporary_files(folder: Path) -> None:
    """Removes temporary files that killed processes left; no other process may be writing in this folder."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_error(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be written ({error.strerror or error}): choose another place with runs= or run_dir=."
    )
