"""Commands in their own processes that start quickly, forked from a server that has imported everything.

`run_command` and `start_command` replace `subprocess.run` and `subprocess.Popen` of `python -m MODULE`. Tests of the
process itself start a real one: for the time of imports, Ctrl-C, a launcher's workers, and for one of two runs that
should be equal (forked processes share the order of their sets, real ones do not).

Each pytest process has one such server (Linux; elsewhere all processes are real). It has a single thread, which makes
forking safe.
"""

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache, partial
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
POLL_SECONDS = 0.01


class Command:
    """A process that the server has forked: as much of a `subprocess.Popen` as tests need, output as text."""

    def __init__(self, module: str, arguments: tuple[str, ...], cwd: Path, env: Mapping[str, str]) -> None:
        self.args = (module, *arguments)
        self.pid, self._out, self._err = _asked(module, arguments, cwd, dict(env))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _asked(self.pid)
        return self.returncode

    def wait(self, timeout: float = 600) -> int:
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout, self._out.read_text(), self._err.read_text())
            time.sleep(POLL_SECONDS)
        return status

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        self.wait(timeout)
        return self._out.read_text(), self._err.read_text()

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def start_command(module: str, *arguments: str, cwd: Path | None = None, **environment: str) -> Any:
    """A running `python -m MODULE ARGUMENTS`, with these variables besides those of this process."""
    env = {**os.environ, **environment}
    if sys.platform == "linux":
        return Command(module, arguments, cwd or Path.cwd(), env)
    command, pipe = [sys.executable, "-m", module, *arguments], subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=pipe, stderr=pipe, text=True)


def run_command(
    module: str, *arguments: str, cwd: Path | None = None, check: bool = False, timeout: float = 600, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS` until its end; `check`: which is to be a good one."""
    process = start_command(module, *arguments, cwd=cwd, **environment)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert not (check and process.returncode), out + err
    return subprocess.CompletedProcess([module, *arguments], process.returncode, out, err)


def _asked(*question: Any) -> Any:
    connection = _server()
    connection.send(question)
    return connection.recv()


@cache
def _server() -> Connection:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "tests.commands", str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT, start_new_session=True)
    theirs.close()
    connection = Connection(ours.detach())

    def end() -> None:
        connection.close()
        process.wait()

    atexit.register(end)
    return connection


def serve(connection: Connection) -> None:
    """Until the other side is gone: starts what it asks for, and answers whether that has ended."""
    from scripts.drills.forked import import_everything, start

    import_everything()
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, f"{len(threads)} threads"
    running = set()

    def prepare(cwd: Path, env: Mapping[str, str]) -> None:
        connection.close()
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)

    with tempfile.TemporaryDirectory() as name, contextlib.suppress(EOFError):
        for number in count():
            match connection.recv():
                case (str(module), arguments, cwd, env):
                    out, err = Path(name, f"{number}.out"), Path(name, f"{number}.err")
                    running.add(child := start(module, arguments, out, err, partial(prepare, cwd, env)))
                    connection.send((child, out, err))
                case (int(child),):
                    ended, status = os.waitpid(child, os.WNOHANG)
                    running.discard(ended)
                    connection.send(os.waitstatus_to_exitcode(status) if ended else None)
    for child in running:
        os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
