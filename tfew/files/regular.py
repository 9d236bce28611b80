"""Opens untrusted files such that reading them ends: regular files only, up to a size.

A FIFO never ends, nor does a link to /dev/zero, and checking a path first leaves time to swap the file. So the file is
opened without blocking, and the open file is checked.
"""

import io
import os
import stat
from pathlib import Path

MAX_TEXT_BYTES = 64 * 2**20  # settings, descriptions and records are kilobytes


def open_regular(path: Path, max_bytes: int | None = None) -> io.BufferedReader:
    """Opens for reading; raises ValueError if it is not a regular file or is larger, OSError as `open` does."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        state = os.fstat(descriptor)
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(f"{path} is a folder")
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("it is no regular file")
        if max_bytes is not None and state.st_size > max_bytes:
            raise ValueError(f"it has {state.st_size:,} bytes, and at most {max_bytes:,} are read")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """UTF-8; raises ValueError, UnicodeDecodeError being one, or OSError."""
    with open_regular(path, max_bytes) as file:
        data = file.read(max_bytes + 1)  # it may have grown since
    if len(data) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")  # as text files are read
