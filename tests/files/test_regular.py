"""Files that never end, and files that are too large, are refused before they are read."""

import os
from pathlib import Path

import pytest

from tfew.errors import UserError
from tfew.files.checksums import file_sha256
from tfew.files.regular import open_regular, read_text


@pytest.fixture(params=["fifo", "device", "link"])
def endless(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "endless"
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(tmp_path / "fifo")
        path.symlink_to(tmp_path / "fifo")
    return path


def test_what_never_ends_is_not_read(endless: Path) -> None:
    with pytest.raises(ValueError, match="no regular file"):
        read_text(endless)
    with pytest.raises(UserError, match="no regular file"):
        file_sha256(endless)


def test_texts_under_their_size(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("ä\r\nb\rc\n".encode())
    assert read_text(path, 8) == path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="it has 8 bytes, and at most 7"):
        read_text(path, 7)
    os.truncate(path, 2**40)  # sparse
    with pytest.raises(ValueError, match="bytes"):
        read_text(path)
    path.write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        read_text(path)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
