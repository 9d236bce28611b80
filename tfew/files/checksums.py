"""Whether a file is still as it was written: checksums, against disks, copies and half downloads.

They keep nobody from writing another file with its own checksum; SECURITY.md says what is promised.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfew.errors import UserError
from tfew.files.untrusted import check_archive, parse_own_json

SEAL = "sha256"


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_checked_json(fields: Mapping[str, Any]) -> str:
    """A JSON object of these fields, and last the checksum of all others."""
    plain = json.loads(json.dumps(fields))
    return json.dumps({**plain, SEAL: _checksum(plain)}, indent=1, ensure_ascii=False) + "\n"


def from_checked_json(text: str) -> dict[str, Any]:
    """What was sealed; a JSON object without a seal, as older versions wrote them, is taken as it is.

    Raises ValueError where it is no JSON object, or not the one that was sealed.
    """
    fields = parse_own_json(text)
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    if (seal := fields.pop(SEAL, None)) is not None and seal != _checksum(fields):
        raise ValueError("it is damaged: its checksum is another")
    return fields


def check_file(path: Path, expected_sha256: str | None, knob: str) -> None:
    """Raises UserError where the file is not the one with this checksum; None, of older versions, is not checked."""
    if expected_sha256 is not None and path.is_file() and file_sha256(path) != expected_sha256:
        raise UserError(f"{path} is damaged or has been changed: its checksum is not the one noted with it. {knob}")


def check_checkpoint(path: Path) -> None:
    """Raises UserError where a file of torch.save is cut off or damaged; torch does not look at the checksums in it."""
    import torch

    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # whatever zipfile and the unpickler come upon
        damaged = next(iter(str(error).splitlines()), type(error).__name__)
    if damaged is not None:
        raise UserError(
            f"{path} is damaged ({damaged}): delete it, and resume=true goes on from an earlier one or from the start."
        )


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
