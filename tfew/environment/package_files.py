"""Data files of other installed Python packages, found in the packages' lists of files.

The package itself is never imported: that would run its code, and require its dependencies.
"""

import base64
from importlib import metadata
from pathlib import Path


def package_file(package: str, file: str) -> Path | None:
    """The path of this file (named as in the wheel) of an installed package; None if file or package is missing."""
    entry = _listed(package, file)
    path = None if entry is None else Path(str(entry.locate()))
    return path if path is not None and path.is_file() else None


def recorded_sha256(package: str, file: str) -> str | None:
    """The SHA-256 that the package records for its file, in hexadecimal; None if it records none."""
    entry = _listed(package, file)
    if entry is None or entry.hash is None or entry.hash.mode != "sha256":
        return None
    return base64.urlsafe_b64decode(entry.hash.value + "=").hex()


def _listed(package: str, file: str) -> metadata.PackagePath | None:
    try:
        listed = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return None
    return next((entry for entry in listed if entry.as_posix() == file), None)
