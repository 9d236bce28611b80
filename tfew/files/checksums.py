"""Checksums, to detect files that were damaged by a disk, a copy or an incomplete download.

They are no protection against forgery; see SECURITY.md.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfew.errors import UserError
from tfew.files.regular import open_regular
from tfew.files.untrusted import check_archive, parse_own_json

CHECKSUM_KEY = "sha256"


def file_sha256(path: Path) -> str:
    """The file's SHA-256; raises UserError if it is not a regular file, since reading might never end."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def to_checked_json(fields: Mapping[str, Any]) -> str:
    """A JSON object of these fields and, last, their checksum."""
    plain = json.loads(json.dumps(fields))
    return json.dumps({**plain, CHECKSUM_KEY: _checksum(plain)}, indent=1, ensure_ascii=False) + "\n"


def from_checked_json(text: str) -> dict[str, Any]:
    """The fields without the checksum; an object without one, as older versions wrote it, is not checked.

    Raises ValueError if it is no JSON object, or if the checksum does not match.
    """
    fields = parse_own_json(text)
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    if (expected := fields.pop(CHECKSUM_KEY, None)) is not None and expected != _checksum(fields):
        raise ValueError("it is damaged: its checksum does not match")
    return fields


def check_sha256(path: Path, expected_sha256: str | None, knob: str) -> None:
    """Raises UserError if the file has another checksum; None, from older versions, is not checked."""
    if expected_sha256 is not None and path.is_file() and file_sha256(path) != expected_sha256:
        raise UserError(f"{path} is damaged or has been changed: its checksum is not the one noted with it. {knob}")


def check_checkpoint(path: Path) -> None:
    """Raises UserError if a file of torch.save is truncated or damaged; torch ignores the checksums in it."""
    import torch

    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # of any type, from zipfile or the unpickler
        damaged = next(iter(str(error).splitlines()), type(error).__name__)
    if damaged is not None:
        raise UserError(
            f"{path} is damaged ({damaged}): delete it, and resume=true continues from an earlier one or the start."
        )


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
