"""The files that `input=` names: one file, a folder, or a pattern; local, or at a URL (fsspec)."""

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfew.errors import UserError
from tfew.tables.byte_lines import STDIO
from tfew.tables.remote import file_system, is_url, store_errors
from tfew.tables.stream import TABLES, TEXTS, file_ending

PATTERN = frozenset("*?[")


@dataclass(frozen=True)
class InputFile:
    """`version`: changes with the content, as far as can be known without reading it."""

    path: str
    size: int
    version: str


def names_many(source: str) -> bool:
    """Whether this is anything but a single local file."""
    return is_url(source) or Path(source).expanduser().is_dir() or _is_pattern(source)


def absolute(path: str | Path) -> str:
    """The absolute path of a local file or folder; anything else, such as a Hub path, unchanged."""
    here = Path(path).expanduser()
    return str(here.absolute()) if here.exists() else str(path)


def find_files(source: str, kind: str | None) -> list[InputFile]:
    """The files, sorted by name; in a folder those with a known ending, or with `kind` (`format=`) all.

    Raises UserError if there are none.
    """
    if source == STDIO:
        raise UserError("Standard input cannot be split among workers: name a file, a folder or a pattern with input=.")
    return _remote(source, kind) if is_url(source) else _local(source, kind)


def _is_pattern(source: str) -> bool:
    return bool(PATTERN & set(source)) and not Path(source).expanduser().exists()


def _local(source: str, kind: str | None) -> list[InputFile]:
    path = Path(source).expanduser()
    if path.is_dir():
        found = [str(each) for each in path.rglob("*") if each.is_file() and _is_input(each.name, kind)]
    elif _is_pattern(source):
        found = [each for each in glob.glob(str(path), recursive=True) if Path(each).is_file()]
    else:
        found = [str(path)] if path.is_file() else []
    if not found:
        raise _nothing(source, path.is_dir(), path.exists() or _is_pattern(source))
    files = []
    for name in sorted(found):
        status = Path(name).stat()
        files.append(InputFile(str(Path(name).absolute()), status.st_size, str(status.st_mtime_ns)))
    return files


def _remote(source: str, kind: str | None) -> list[InputFile]:
    system, path = file_system(source)
    with store_errors(source):
        if PATTERN & set(path):
            described = system.glob(path, detail=True)
        elif source.endswith("/") or not system.isfile(path):
            described = system.find(path, detail=True)
            described = {name: info for name, info in described.items() if _is_input(name, kind)}
        else:
            described = {path: system.info(path)}
    files = [
        InputFile(str(system.unstrip_protocol(name)), int(info["size"]), _version(info))
        for name, info in sorted(described.items())
        if info.get("type") != "directory"
    ]
    if not files:
        raise _nothing(source, is_folder=bool(system.isdir(path)), exists=bool(PATTERN & set(path)))
    return files


def _version(info: dict[str, Any]) -> str:
    marks = (info.get(key) for key in ("ETag", "etag", "md5Hash", "LastModified", "mtime"))
    return str(next((mark for mark in marks if mark is not None), ""))


def _is_input(name: str, kind: str | None) -> bool:
    last = name.rsplit("/", 1)[-1]
    hidden = last.startswith((".", "_"))  # such as _SUCCESS
    return not hidden and (kind is not None or file_ending(last) in {**TABLES, **TEXTS})


def _nothing(source: str, is_folder: bool, exists: bool) -> UserError:
    if is_folder:
        endings = " ".join({**TABLES, **TEXTS})
        return UserError(f"input={source} holds no file with a known ending ({endings}; set format= to read others).")
    return UserError(f"input={source} {'matches no file' if exists else 'does not exist'}.")
