"""Workers that are local processes, one per device."""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from tfew.environment.cores import share_of_cores
from tfew.pieces.labeller import PieceLabeller
from tfew.pieces.piece import Piece
from tfew.pieces.workers import Done, Lost, Workers, accepted

DESCRIBE = None  # the first request to a worker
RESTART_SECONDS = 1.0  # so that a worker that dies at once is not restarted in a tight loop


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection


class LocalWorkers(Workers):
    """`make`: makes a labeller, in the worker's process; `gpus`: how many there are; worker N uses the Nth;
    0: workers split the CPU cores."""

    def __init__(self, make: Callable[[], PieceLabeller], number: int, gpus: int) -> None:
        self._make, self._number, self._gpus = make, number, gpus
        self._workers: list[_Worker] = []

    def start(self) -> None:
        self._workers = [self._started(number) for number in range(self._number)]

    def give(self, worker: int, piece: Piece, columns: Sequence[str] | None) -> None:
        with suppress(OSError):  # it has died; `wait` sees its closed connection
            self._workers[worker].connection.send((piece, columns))

    def wait(self, seconds: float) -> list[Done | Lost]:
        events: list[Done | Lost] = []
        ready = wait([worker.connection for worker in self._workers], seconds)
        for number, worker in enumerate(list(self._workers)):
            if worker.connection not in ready:
                continue
            try:
                answer = worker.connection.recv()
            except (EOFError, OSError):
                events.append(Lost(number, self._replaced(number)))
                continue
            if isinstance(answer, str):
                raise RuntimeError(f"A worker failed:\n{answer}")
            events.append(Done(number, accepted(answer)))
        return events

    def close(self) -> None:
        for worker in self._workers:
            worker.connection.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()

    def _replaced(self, number: int) -> str:
        """Starts another one; returns how the old one ended."""
        worker = self._workers[number]
        worker.connection.close()
        worker.process.join()
        code = worker.process.exitcode or 0
        time.sleep(RESTART_SECONDS)
        self._workers[number] = self._started(number)
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _started(self, number: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._make), daemon=True)
        with _environment(self._own_environment(number)):
            process.start()
        theirs.close()
        ours.send(DESCRIBE)
        return _Worker(process, ours)

    def _own_environment(self, number: int) -> dict[str, str]:
        own = {"TQDM_DISABLE": "1"}
        if self._gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            names = visible if visible != [""] else [str(gpu) for gpu in range(self._gpus)]
            return {**own, "CUDA_VISIBLE_DEVICES": names[number % len(names)]}
        return {"OMP_NUM_THREADS": str(share_of_cores(self._number)), **os.environ, **own}


@contextmanager
def _environment(own: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(own)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _work(connection: Connection, make: Callable[[], PieceLabeller]) -> None:
    """The main function of a worker process; it ends with its parent."""
    labeller = make()
    while True:
        try:
            task = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            answer = labeller.describe() if task is DESCRIBE else labeller.label(*task)
        except KeyboardInterrupt:
            return
        except Exception:
            connection.send(traceback.format_exc())
            return
        try:
            connection.send(answer)
        except OSError:
            return
