"""An output file that takes hours to write: it appears when it is complete, and writing resumes after a kill.

Until then OUTPUT.partial grows, with other files that are written in step with it. OUTPUT.partial.json holds the sizes
up to which all are committed, and the identity of the output. Anything beyond these sizes is truncated on resume.
"""

import glob
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from tfew.errors import UserError
from tfew.files.atomic import write_atomically
from tfew.files.file_lock import try_lock
from tfew.files.untrusted import parse_json


class PartialFile:
    """`sides`: the other files. `identity`: must be unchanged to resume. `state`: the last committed state.

    Raises UserError if the output exists already, or if the unfinished one has another identity.
    """

    def __init__(
        self, path: Path, sides: Sequence[Path], identity: Mapping[str, Any], resume: bool, overwrite: bool
    ) -> None:
        self.path, self.sides, self.identity = path, tuple(sides), json.loads(json.dumps(identity))
        self._files: dict[Path, BinaryIO] = {}
        saved = self._load_saved() if resume and not overwrite else None
        self.state: dict[str, Any] = {} if saved is None else saved["state"]
        # killed while the files were renamed
        self.finished = saved is not None and path.is_file() and not _partial_path(path).exists()
        if not self.finished:
            check_output_file(path, overwrite)
            self._open(saved)

    def _open(self, saved: Mapping[str, Any] | None) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for path in (self.path, *self.sides):
                self._files[path] = _open_for_writing(_partial_path(path))
                if not try_lock(self._files[path].fileno()):
                    self.close()
                    raise UserError(f"output={self.path} is being written by another process.")
            for torn in self.path.parent.glob(f".{glob.escape(self._state_file.name)}.*.tmp"):  # by a kill
                torn.unlink(missing_ok=True)
            for path, file in self._files.items():
                file.truncate(0 if saved is None else saved["sizes"].get(path.name, 0))  # an older version has fewer
                file.seek(0, os.SEEK_END)
        except OSError as error:
            self.close()
            raise _write_error(self.path, error) from error

    @property
    def _state_file(self) -> Path:
        return self.path.with_name(f"{self.path.name}.partial.json")

    @property
    def written(self) -> Path:
        """The output's path until it is finished."""
        return _partial_path(self.path)

    def write(self, text: str, side_texts: Sequence[str], state: Mapping[str, Any]) -> None:
        """Appends to all files, each side's its own text, and commits them together with the state."""
        try:
            for file, added in zip(self._files.values(), (text, *side_texts), strict=True):
                if added:
                    file.write(added.encode())
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise _write_error(self.path, error) from error
        sizes = {path.name: file.tell() for path, file in self._files.items()}
        saved = {"identity": self.identity, "sizes": sizes, "state": dict(state)}
        write_atomically(self._state_file, json.dumps(saved, ensure_ascii=False))

    def finish(self) -> None:
        """Renames all files to their final names; of the sides an empty one is removed."""
        self.close()
        if _partial_path(self.path).exists():
            os.replace(_partial_path(self.path), self.path)
        for side in self.sides:
            if _size(_partial_path(side)) > 0:
                os.replace(_partial_path(side), side)
            elif _partial_path(side).exists():
                _partial_path(side).unlink()
                side.unlink(missing_ok=True)  # of an output that is replaced
        self._state_file.unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes what was written so far; nothing is left to resume from."""
        self.close()
        for path in (*map(_partial_path, (self.path, *self.sides)), self._state_file):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        for file in self._files.values():
            with suppress(OSError):  # of text that could not be written; what was committed is on the disk
                file.close()

    def _load_saved(self) -> dict[str, Any] | None:
        """What to resume from, if anything."""
        if not self._state_file.is_file():
            return None
        try:
            saved = parse_json(self._state_file.read_text(encoding="utf-8"))
            sizes, identity = saved["sizes"], saved["identity"]
            renamed = self.path.is_file() and not _partial_path(self.path).exists()
            files = [file for file in (self.path, *self.sides) if file == self.path or file.name in sizes]
            whole = all(_size(_partial_path(file)) >= sizes[file.name] for file in files) or renamed
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"{self._state_file} cannot be read ({error}): delete it, or set overwrite=true, to start over."
            ) from error
        if not whole:
            raise UserError(f"{_partial_path(self.path)} is shorter than it was: set overwrite=true to start over.")
        if identity != self.identity:
            unlike = ", ".join(sorted(key for key in self.identity if self.identity[key] != identity.get(key)))
            raise UserError(
                f"{_partial_path(self.path)} is a part of another output (different {unlike or 'settings'}): choose"
                " another output=, or set overwrite=true to start over."
            )
        return dict(saved)


def check_output_file(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise UserError(f"output={path} is a folder, not a file.")
    if path.exists() and not overwrite:
        raise UserError(f"output={path} already exists: choose another, or set overwrite=true.")


def _partial_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def _open_for_writing(path: Path) -> BinaryIO:
    """Opens without truncating: uncommitted data is truncated once the file is locked."""
    path.touch()
    return path.open("r+b")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _write_error(path: Path, error: OSError) -> UserError:
    return UserError(f"output={path} cannot be written ({error.strerror or error}): choose another.")
