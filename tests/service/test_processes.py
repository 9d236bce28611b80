"""Several processes behind one port; the workers here only return their number and process."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.service.running import wait_for
from tfew.service.processes import bound_sockets, visible_gpu

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")
PROGRAM = """
import os, signal, sys, time
from tfew.errors import UserError
from tfew.service.processes import Supervisor, bound_sockets

sockets = bound_sockets("127.0.0.1", 0)
asked = dict(ended=False)

def work(number, beat):
    signal.signal(signal.SIGTERM, lambda *_: asked.update(ended=True))
    sockets[0].settimeout(0.02)
    sockets[0].listen(16)
    {start}
    while not asked["ended"]:
        if not beat():
            break
        try:
            client, _ = sockets[0].accept()
        except TimeoutError:
            continue
        said = client.recv(10)
        client.sendall(f"{{number}} {{os.getpid()}}".encode())
        client.close()
        {then}
    {end}

def ready():
    print(sockets[0].getsockname()[1], flush=True)

try:
    Supervisor(2, work, sockets, {silent}, 2, ready).run()
except UserError as error:
    sys.exit(str(error))
"""


class Story:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        assert process.stdout is not None
        self.port = int(process.stdout.readline())

    def ask(self, what: bytes = b"who") -> tuple[int, int]:
        """Number and process of whichever answers."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
            client.sendall(what)
            number, pid = client.recv(100).split()
        return int(number), int(pid)

    def all(self) -> dict[int, int]:
        found = dict(self.ask() for _ in range(2))
        wait_for(lambda: found.update([self.ask()]) or len(found) == 2)
        return found


@contextmanager
def running(start: str = "pass", then: str = "pass", end: str = "pass", silent: float = 30.0) -> Iterator[Story]:
    code = PROGRAM.format(start=start, then=then, end=end, silent=silent)
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=pipe, stderr=pipe, text=True)
    try:
        yield Story(process)
    finally:
        process.kill()
        process.communicate()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_both_answer_one_that_dies_is_replaced_and_both_end_with_the_parent() -> None:
    with running() as story:
        first = story.all()
        assert set(first) == {0, 1}
        os.kill(first[1], signal.SIGKILL)
        wait_for(lambda: gone(first[1]))
        assert story.ask()[0] in (0, 1), "the other one has the port meanwhile"
        second: dict[int, int] = {}
        wait_for(lambda: second.update([story.ask()]) or (1 in second and 0 in second))
        assert second[0] == first[0]
        assert second[1] != first[1]
        story.process.send_signal(signal.SIGTERM)
        _, said = story.process.communicate(timeout=20)
        assert story.process.returncode == 0
        assert all(gone(pid) for pid in second.values())
        assert f"Process 1 ({first[1]}) was ended by SIGKILL: starting another." in said


def test_one_that_says_nothing_any_more_is_killed_and_replaced() -> None:
    with running(then="time.sleep(60 if said == b'hang' else 0)", silent=0.5) as story:
        number, pid = story.ask(b"hang")
        wait_for(lambda: gone(pid))
        found: dict[int, int] = {}
        wait_for(lambda: found.update([story.ask()]) or len(found) == 2)
        assert found[number] != pid


def test_what_they_have_accepted_is_ended_first_and_what_hangs_is_killed() -> None:
    with running(end="time.sleep(60)") as story:
        pids = story.all()
        story.process.send_signal(signal.SIGTERM)
        story.process.communicate(timeout=30)  # end_seconds is 2
        assert all(gone(pid) for pid in pids.values())


def test_they_end_when_the_parent_is_killed() -> None:
    with running() as story:
        pids = story.all()
        story.process.kill()
        wait_for(lambda: all(gone(pid) for pid in pids.values()))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("raise UserError('no such model')", "ended with code 1 before it was ready"),
        ("os._exit(7)", "ended with code 7 before it was ready"),
    ],
)
def test_a_start_that_fails_is_no_start(start: str, message: str) -> None:
    code = PROGRAM.format(start=start, then="pass", end="pass", silent=30)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert message in done.stderr


def test_until_a_process_listens_connections_are_refused() -> None:
    (bound,) = bound_sockets("127.0.0.1", 0)
    with bound:
        address = bound.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)
        bound.listen(4)
        socket.create_connection(address, timeout=5).close()
        with pytest.raises(OSError, match="in use"):
            bound_sockets(*address)


def test_gpus_in_turn() -> None:
    assert [visible_gpu(number, 2, None) for number in range(4)] == ["0", "1", "0", "1"]
    assert [visible_gpu(number, 2, "3,GPU-5") for number in range(3)] == ["3", "GPU-5", "3"]
