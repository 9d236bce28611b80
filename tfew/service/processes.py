"""Several processes behind one port, forked from one that has loaded the model, so that they share its weights.

uvicorn's own supervisor spawns processes, each of which would load a model of its own; hence this small supervisor. The
parent holds the listening sockets and serves nothing. A worker that ends, or is silent for too long, is replaced; the
requests it had accepted are lost, but not those waiting to be accepted.
"""

import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType

from tfew.errors import UserError

log = logging.getLogger(__name__)

HAS_FORK = hasattr(os, "fork")
LONGEST_PAUSE_SECONDS = 30.0  # before restarting a worker that keeps ending
STEADY_SECONDS = 60.0  # a worker that lived this long did not fail at its start
POLL_SECONDS = 0.2
SIGNALS = (signal.SIGTERM, signal.SIGINT)

Beat = Callable[[], bool]  # heartbeat to the parent; returns whether the parent is alive
Work = Callable[[int, Beat], None]  # main function of a worker: its number, from 0; its heartbeat


@dataclass
class Worker:
    """`pipe`: of its heartbeats; `heard`: time of the last one; `ready`: whether there was one."""

    number: int
    pid: int
    pipe: int
    began: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    ready: bool = False


class Supervisor:
    """Keeps `count` workers running until SIGTERM or Ctrl-C, then lets them end.

    `sockets`: all workers listen on them; the parent closes its own on shutdown. `silent_seconds`: a ready worker that
    is silent for this long is killed and replaced. `end_seconds`: for all to end, after a signal. `ready` is called
    once, when all workers are ready. Call `run` from a single-threaded process: a fork copies only the calling thread.
    """

    def __init__(
        self,
        count: int,
        work: Work,
        sockets: Sequence[socket.socket],
        silent_seconds: float,
        end_seconds: float,
        ready: Callable[[], None],
    ) -> None:
        self._count, self._work, self._sockets, self._ready = count, work, sockets, ready
        self._silent_seconds, self._end_seconds = silent_seconds, end_seconds
        self._workers: dict[int, Worker] = {}  # by number
        self._failures = [0] * count
        self._next_start = [0.0] * count
        self._signals = 0
        self._told = 0  # signals passed on to the workers

    def run(self) -> None:
        """Raises UserError if a worker ends before it was ever ready: another would fail, too."""
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        announced = False
        try:
            while not self._signals:
                self._start_missing()
                self._listen()
                self._reap()
                self._kill_silent()
                if not announced and len(self._workers) == self._count and all(w.ready for w in self._workers.values()):
                    announced = True
                    self._ready()
        finally:
            try:
                self._end()
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def _start_missing(self) -> None:
        for number in range(self._count):
            if number not in self._workers and time.monotonic() >= self._next_start[number]:
                self._workers[number] = self._start(number)

    def _start(self, number: int) -> Worker:
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        os.set_blocking(theirs, False)
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # one that arrives now must not run this handler in the child
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self._live(number, ours, theirs, parent)
                code = 0
            except UserError as error:
                log.error(f"Process {number}: {error}")
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)  # skips the parent's cleanup
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.close(theirs)
        return Worker(number, pid, ours)

    def _live(self, number: int, ours: int, theirs: int, parent: int) -> None:
        for pipe in (ours, *(worker.pipe for worker in self._workers.values())):
            os.close(pipe)
        for signal_number in SIGNALS:
            signal.signal(signal_number, signal.SIG_DFL)
        os.setsid()  # only the parent gets Ctrl-C, and passes it on: a second one would end a worker at once
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

        def beat() -> bool:
            with suppress(BlockingIOError, BrokenPipeError):  # the pipe is full; the parent has ended
                os.write(theirs, b".")
            return os.getppid() == parent

        self._work(number, beat)

    def _listen(self) -> None:
        try:
            heard, _, _ = select.select([worker.pipe for worker in self._workers.values()], [], [], POLL_SECONDS)
        except InterruptedError:
            return
        ended = False
        for worker in self._workers.values():
            if worker.pipe in heard:
                if os.read(worker.pipe, 4096):
                    worker.ready, worker.heard = True, time.monotonic()
                else:
                    ended = True  # it is about to be
        if ended:
            time.sleep(POLL_SECONDS / 10)

    def _reap(self) -> None:
        for number, worker in list(self._workers.items()):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if not pid:
                continue
            os.close(worker.pipe)
            del self._workers[number]
            how = _how_it_ended(os.waitstatus_to_exitcode(status))
            if self._signals:
                continue
            if not worker.ready and not self._failures[number]:
                raise UserError(f"Process {number} of {self._count} {how} before it was ready: see above.")
            lived = time.monotonic() - worker.began
            self._failures[number] = 1 if lived > STEADY_SECONDS else self._failures[number] + 1
            pause = min(LONGEST_PAUSE_SECONDS, 2.0 ** (self._failures[number] - 1) - 1)
            self._next_start[number] = time.monotonic() + pause
            log.warning(f"Process {number} ({worker.pid}) {how}: starting another{f' in {pause:g} s' * (pause > 0)}.")

    def _kill_silent(self) -> None:
        now = time.monotonic()
        for worker in self._workers.values():
            if worker.ready and now - worker.heard > self._silent_seconds:
                log.warning(f"Process {worker.number} ({worker.pid}) is stuck: killing it.")
                os.kill(worker.pid, signal.SIGKILL)
                worker.heard = now

    def _end(self) -> None:
        """Tells all workers to end, once for each signal, and waits; kills them at the deadline."""
        deadline = time.monotonic() + self._end_seconds
        self._signals = max(1, self._signals)
        for one in self._sockets:
            one.close()
        while self._workers:
            if self._told < self._signals:
                self._told += 1
                self._kill(signal.SIGTERM)
            if time.monotonic() > deadline:
                self._kill(signal.SIGKILL)
            self._reap()
            if self._workers:
                self._listen()

    def _kill(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            with suppress(ProcessLookupError):
                os.kill(worker.pid, number)


def _how_it_ended(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def bound_sockets(host: str, port: int) -> list[socket.socket]:
    """A shareable socket for each address of the host; raises OSError. `port` 0: a free one is chosen for all.

    They do not listen yet: until a process does, connections are refused, so that a proxy tries another service.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            if sockets and not port:
                port = int(sockets[0].getsockname()[1])
            one = socket.socket(family, kind, protocol)
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((address[0], port, *address[2:]))
    except BaseException:
        for one in sockets:
            one.close()
        raise
    return sockets


def gpu_count() -> int:
    """The GPUs that torch sees, counted in a separate process, since one that has asked cannot be forked any more."""
    pid = os.fork()
    if pid == 0:
        count = 0
        try:
            import torch

            count = min(torch.cuda.device_count(), 255)
        finally:
            os._exit(count)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def visible_gpu(number: int, gpus: int, visible: str | None) -> str:
    """`CUDA_VISIBLE_DEVICES` of a worker: the GPUs (`visible`: this variable of the parent) are assigned in turn."""
    named = visible.split(",") if visible else [str(gpu) for gpu in range(gpus)]
    return named[number % gpus]
