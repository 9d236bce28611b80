"""Lines of bytes, with their positions: of a file, plain or .gz, of standard input, or of bytes in memory.

The encoding is detected from the beginning (`detect_encoding`). Lines end where that encoding has a line feed; offsets
count the bytes of the unpacked file.
"""

import codecs
import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tfew.errors import UserError
from tfew.tables.remote import is_url, open_url

STDIO = "-"  # standard input, standard output
GZIP = ".gz"
HEAD_BYTES = 2**22  # of a file, for detecting its encoding
MAX_LINE_BYTES = 2**24  # a longer line means another file format
UTF_8, WINDOWS = "utf-8", "cp1252"
BOMS = {
    codecs.BOM_UTF8: UTF_8,
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16's, which it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
UNITS = {"utf-16-le": 2, "utf-16-be": 2, "utf-32-le": 4, "utf-32-be": 4}  # bytes of a character; 1 in all others
NAMES = {WINDOWS: "Windows-1252 (cp1252), since it is not UTF-8", "utf-8": "UTF-8"}
CONTROLS = set(range(32)) - set(b"\t\n\v\f\r\x1b")  # characters that no text contains


@dataclass
class ByteSource:
    """`name` in messages; `size` in bytes, None if unknown; `is_owned`: close it at the end."""

    name: str
    file: BinaryIO
    size: int | None
    is_owned: bool = True

    def head(self, most_bytes: int = HEAD_BYTES) -> tuple[bytes, bool]:
        """The beginning, without consuming it, and whether that is all; of standard input what has arrived."""
        try:
            if self.file.seekable():
                start = self.file.tell()
                found = self.file.read(most_bytes)
                self.file.seek(start)
                return found, len(found) < most_bytes
            return self.file.peek(most_bytes), False  # type: ignore[attr-defined]  # of a BufferedReader
        except (OSError, EOFError, zlib.error) as error:
            raise unreadable(self.name, error) from error

    def close(self) -> None:
        if self.is_owned:
            self.file.close()


def open_source(path: str) -> ByteSource:
    if path == STDIO:
        return ByteSource("standard input", sys.stdin.buffer, None, is_owned=False)
    if is_url(path):
        file, size = open_url(path)
        is_packed = path.lower().endswith(GZIP)
        return ByteSource(path, gzip.open(file, "rb") if is_packed else file, None if is_packed else size)  # type: ignore[arg-type]
    try:
        if path.lower().endswith(GZIP):
            return ByteSource(path, gzip.open(path, "rb"), None)  # type: ignore[arg-type]
        return ByteSource(path, open(path, "rb"), Path(path).stat().st_size)
    except OSError as error:
        raise unreadable(path, error) from error


def source_of(data: bytes, name: str) -> ByteSource:
    return ByteSource(name, io.BytesIO(data), len(data))


def unreadable(name: str, error: Exception) -> UserError:
    return UserError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}.")


def raw_lines(source: ByteSource, encoding: str) -> Iterator[bytes]:
    """The lines from the current position; raises UserError for an endless one."""
    unit = UNITS.get(encoding, 1)
    newline = "\n".encode(encoding)
    try:
        while line := source.file.readline(MAX_LINE_BYTES + 1):
            while unit > 1 and len(line) <= MAX_LINE_BYTES:
                line += source.file.read(-len(line) % unit)
                if line.endswith(newline) or not (more := source.file.readline(MAX_LINE_BYTES + 1)):
                    break
                line += more
            yield line
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(source.name, error) from error


def detect_encoding(head: bytes, is_whole: bool) -> tuple[str, bytes]:
    """The encoding of a file with this beginning, and its byte-order mark.

    UTF-8, unless a mark or the positions of NUL bytes indicate UTF-16 or UTF-32, or all non-ASCII lines are invalid as
    UTF-8 and valid as Windows-1252. `is_whole`: whether this is the whole file.
    """
    for bom, encoding in BOMS.items():
        if head.startswith(bom):
            return encoding, bom
    if (by_nul := _by_places_of_nul(head[:4096])) is not None:
        return by_nul, b""
    lines = head.split(b"\n")
    beyond = [line for line in (lines if is_whole else lines[:-1]) if not line.isascii()]
    if not beyond or any(_can_decode(line, UTF_8) for line in beyond):
        return UTF_8, b""
    is_text = not CONTROLS & set(b"".join(lines)) and all(_can_decode(line, WINDOWS) for line in beyond)
    return (WINDOWS if is_text else UTF_8), b""


def _by_places_of_nul(head: bytes) -> str | None:
    """UTF-16 without a mark: in nearly every pair of bytes the same one is NUL."""
    pairs = len(head) // 2
    if pairs < 2:
        return None
    even, odd = head[0 : 2 * pairs : 2].count(0), head[1 : 2 * pairs : 2].count(0)
    if odd > 0.7 * pairs and not even:
        return "utf-16-le"
    return "utf-16-be" if even > 0.7 * pairs and not odd else None


def _can_decode(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
        return True
    except UnicodeDecodeError:
        return False


def describe_encoding(encoding: str) -> str:
    return NAMES.get(encoding) or encoding[: len("utf-16")].upper()
