"""Systems without locks: the package is imported, runs are made, and a note says that nothing is locked."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tfew.devices import memory
from tfew.files import file_lock
from tfew.files.partial_file import PartialFile
from tfew.runs import run_lock
from tfew.runs.run_lock import LOCK_FILE, is_locked, lock_file, lock_run

ONLY_UNIX = ("fcntl", "resource", "pwd", "grp", "termios", "pty", "posix")
IMPORT_ALL = f"""
import builtins, importlib, pkgutil, sys

real = builtins.__import__

def import_(name, globals=None, *rest, **named):
    if name in {ONLY_UNIX} and (globals or {{}}).get("__name__", "").startswith("tfew"):
        raise ImportError(name)
    return real(name, globals, *rest, **named)

builtins.__import__ = import_
import tfew
names = [module.name for module in pkgutil.walk_packages(tfew.__path__, "tfew.")]
for name in names:
    importlib.import_module(name)
from tfew.files.file_lock import HAS_LOCKS
print(len(names), HAS_LOCKS)
"""


def test_every_module_is_imported_where_there_is_no_unix() -> None:
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", IMPORT_ALL], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    number, has_locks = result.stdout.split()
    assert int(number) > 100
    assert has_locks == "False"


def test_runs_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for module in (file_lock, run_lock):
        monkeypatch.setattr(module, "HAS_LOCKS", False)
    monkeypatch.setattr(file_lock, "fcntl", None)
    with caplog.at_level(logging.INFO, "tfew"), lock_run(tmp_path / "run"), lock_run(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
        assert not is_locked(tmp_path / "run" / LOCK_FILE)
    assert caplog.messages[0].startswith("Note: no locks here; nothing keeps two processes from making the same run.")
    assert not (tmp_path / "run").exists()
    file = PartialFile(tmp_path / "out", [tmp_path / "side"], {}, resume=False, overwrite=False)
    file.write("rows\n", [""], {})
    file.finish()
    assert (tmp_path / "out").read_text() == "rows\n"


def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: int) -> None:
        raise OSError(min(file_lock.UNSUPPORTED), "no locks")

    monkeypatch.setattr(file_lock.fcntl, "flock", flock)
    with caplog.at_level(logging.INFO, "tfew"), lock_file(tmp_path / "lock"):
        pass
    assert caplog.messages[0].startswith("Note: no locks on this file system; ")


def test_peak_memory_where_it_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.peak_memory_bytes() > 10**7
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory.peak_memory_bytes() == 0
