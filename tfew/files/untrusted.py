"""Parsers for JSON, YAML and archives of unknown origin: plain data, or ValueError.

Python's JSON parser raises RecursionError on deep nesting. YAML's safe loader constructs no objects, but aliases let a
small file expand beyond any memory, so they are rejected. Files in the project's own formats are checked against
declared types.
"""

import json
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

T = TypeVar("T")
MAX_INTEGER = 2**63 - 1  # in the project's own files: larger ones cannot be counts, and overflow elsewhere


def parse_json(text: str, parse_int: Callable[[str], int] = int) -> Any:
    try:
        found = json.loads(text, parse_int=parse_int)
        _check_characters(text, found)
        return found
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_own_json(text: str) -> Any:
    """JSON in the project's own formats; integers that are too large for them are refused, too."""
    return parse_json(text, _parse_integer)


def check_archive(path: Path) -> None:
    """Raises ValueError for a zip archive with compressed content; other files are ignored.

    torch.save does not compress, but torch.load decompresses: a small file could fill any memory.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError(f"it would unpack to {unpacked:,} bytes")


def validated(found: T, kind: Any = None) -> T:
    """Returns `found`, a dataclass, if all its fields have the declared types; else raises ValueError that names one.

    `kind`: a TypedDict to check a dictionary `found` against; keys that it does not declare are ignored.
    """
    from pydantic import ValidationError

    own: Any = found.__class__
    try:
        if kind is not None:
            _checker(kind).validate_python(found, strict=True)
        else:
            _model(own).model_validate(vars(found), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"].lower()]))) from error
    return found


def _check_characters(text: str, found: Any) -> None:
    """Raises ValueError for escaped lone surrogates, which can be neither encoded nor tokenised."""
    if "\\" not in text:
        return
    try:
        json.dumps(found, ensure_ascii=False, default=str, skipkeys=True).encode()
    except UnicodeEncodeError as error:
        raise ValueError("half a surrogate pair is no character") from error


def _parse_integer(digits: str) -> int:
    if abs(number := int(digits)) > MAX_INTEGER:
        raise ValueError(f"the number {digits[:20]}... is too large")
    return number


@cache
def _checker(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


@cache
def _model(kind: Any) -> Any:
    from pydantic import ConfigDict, create_model

    fields: dict[str, Any] = {name: (hint, ...) for name, hint in get_type_hints(kind).items()}
    return create_model(kind.__name__, __config__=ConfigDict(arbitrary_types_allowed=True), **fields)


def parse_yaml(text: str) -> Any:
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, yaml.SafeLoader)):
            raise ValueError("it has aliases (*name)")
        found = yaml.load(text, yaml.SafeLoader)
        _check_characters(text, found)
        return found
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
