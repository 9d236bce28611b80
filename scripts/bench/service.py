"""Load test of the service: `python -m scripts.bench.service [requests=10000] [clients=32]`.

Trains eight small tasks on mini-T0 (cached in runs/service), serves them, and alternates between requests of all tasks
from many clients, in random order and sorted by task, and from one client, one at a time. Finally the server is stopped
while many clients send requests. Every answer is compared with the predictor's own. Prints requests per second,
latencies, lost and wrong answers, and the server's memory.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tfew.cli import run_script
from tfew.config import compose
from tfew.errors import UserError
from tfew.mini_t0.world import generate
from tfew.prediction.predictor import Predictor
from tfew.prediction.task_predictor import Labelled
from tfew.train import train

FAMILIES = ("entails", "commits", "consequence", "ending", "blank", "same_sense", "request", "complaint")
ROWS = 100  # of each task, asked again and again
ROUNDS = 10
PORT = 8765
TOLERANCE = 1e-5  # of the service's numbers, against tfew.predict's
Asked = tuple[str, int]  # task, row


@dataclass
class Load:
    """What came of many requests; `refused`: answered 503."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    largest_difference: float = 0.0
    took: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.seconds) / self.took

    @property
    def as_predicted(self) -> bool:
        """Whether all were answered, with what `tfew.predict` says of them."""
        return set(self.statuses) == {200} and self.lost == 0 and self.largest_difference < TOLERANCE

    def add(self, other: "Load") -> None:
        self.seconds += other.seconds
        self.statuses += other.statuses
        self.lost += other.lost
        self.largest_difference = max(self.largest_difference, other.largest_difference)
        self.took += other.took

    def line(self, title: str) -> str:
        median, high = np.percentile(self.seconds, [50, 99]) * 1000
        errors = sum(number for status, number in self.statuses.items() if status != 200)
        return (
            f"{title:<22} {self.statuses.total() + self.lost:>6} requests, {self.rate:6.1f} a second,"
            f" median {median:6.1f} ms, 99 % {high:6.1f} ms; {errors} errors, {self.lost} lost,"
            f" largest difference {self.largest_difference:.1e}"
        )


class Clients:
    """`rows` and the answers that are `expected` of them, by task."""

    def __init__(
        self, rows: Mapping[str, Sequence[dict[str, Any]]], expected: Mapping[str, Sequence[Labelled]]
    ) -> None:
        self.rows, self.expected = rows, expected

    def load(self, asked: Iterable[Asked], clients: int) -> Load:
        """Each client asks one request after the other, and stops at a 503 or where nobody is there any more."""
        load, lock, waiting = Load(), threading.Lock(), iter(asked)
        started = time.perf_counter()

        def client() -> None:
            connection = HTTPConnection("127.0.0.1", PORT, timeout=120)
            while True:
                with lock:
                    pair = next(waiting, None)
                if pair is None or not self._ask(connection, pair, load, lock):
                    connection.close()
                    return

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        load.took = time.perf_counter() - started
        return load

    def _ask(self, connection: HTTPConnection, pair: Asked, load: Load, lock: threading.Lock) -> bool:
        task, number = pair
        body = json.dumps({"task": task, "row": self.rows[task][number]})
        started = time.perf_counter()
        try:
            connection.request("POST", "/predict", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            content = json.loads(answer.read())
        except (OSError, HTTPException, ValueError):
            with lock:
                load.lost += 1
            connection.close()
            return False
        with lock:
            load.statuses[answer.status] += 1
            if answer.status == 200:
                load.seconds.append(time.perf_counter() - started)
                off = difference(content["labels"][0], self.expected[task][number])
                load.largest_difference = max(load.largest_difference, off)
        return answer.status != 503


def difference(label: Mapping[str, Any], right: Labelled) -> float:
    return max(abs(label["probabilities"][name] - value) for name, value in right.probabilities.items())


def main(arguments: Sequence[str]) -> int:
    if "--help" in arguments:
        print(__doc__)
        return 0
    options = _options(arguments)
    folders = {family: _trained(family) for family in FAMILIES}
    rows = {family: _rows(family) for family in FAMILIES}
    predictor = Predictor.load(folders, "trainer=cpu")
    clients = Clients(rows, {name: predictor(rows[name], name) for name in FAMILIES})
    tasks = Path("runs/service/tasks.json")
    tasks.write_text(json.dumps({name: str(path.absolute()) for name, path in folders.items()}), encoding="utf-8")
    command = [sys.executable, "-m", "tfew.serve", f"adapters={tasks}", "trainer=cpu", f"port={PORT}"]
    server = subprocess.Popen(command)
    try:
        _await_server(server)
        good = _under_load(server, clients, options["requests"], options["clients"])
        good &= _ending(server, clients, options["clients"])
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()
    return 0 if good else 1


def _under_load(server: "subprocess.Popen[bytes]", clients: Clients, requests: int, many: int) -> bool:
    """Prints a line for each kind of load; whether nothing was lost and all was right.

    The kinds take turns, so that whatever else the machine does falls on all alike.
    """
    source = random.Random(0)
    asked = source.choices([(name, number) for name in FAMILIES for number in range(ROWS)], k=requests)
    clients.load(asked[: requests // 20], many)  # makes one-time allocations
    memory = [_memory_mb(server.pid)]
    mixed, sorted_by_task, alone = Load(), Load(), Load()
    size = -(-requests // ROUNDS)
    for start in tqdm(range(0, requests, size), unit="round"):
        part = asked[start : start + size]
        mixed.add(clients.load(part, many))
        sorted_by_task.add(clients.load(sorted(part[: -(-size // 2)]), many))
        alone.add(clients.load(part[: -(-size // 10)], 1))
        memory.append(_memory_mb(server.pid))
    loads = {"mixed tasks": mixed, "one task after another": sorted_by_task, "one request at a time": alone}
    for title, load in loads.items():
        print(load.line(title))
    print(
        f"mixed tasks: {mixed.rate / sorted_by_task.rate:.2f} times the rate of one task after another,"
        f" {mixed.rate / alone.rate:.2f} times that of one request at a time"
    )
    print(f"memory of the server, MB, at the start and after each round: {', '.join(f'{mb:.0f}' for mb in memory)}")
    return all(load.as_predicted for load in loads.values())


def _ending(server: "subprocess.Popen[bytes]", clients: Clients, many: int) -> bool:
    """SIGTERM while all ask: every request has an answer, labels or 503."""
    timer = threading.Timer(3.0, server.send_signal, [signal.SIGTERM])
    timer.start()
    load = clients.load(iter(lambda: ("complaint", 0), None), many)  # for ever
    status = server.wait(timeout=60)
    counts = ", ".join(f"{number} answered {code}" for code, number in sorted(load.statuses.items()))
    print(f"SIGTERM under load: {counts}, {load.lost} lost; it ended with status {status}")
    return load.lost == 0 and set(load.statuses) == {200, 503} and status == 0


def _options(arguments: Sequence[str]) -> dict[str, int]:
    options = {"requests": 10_000, "clients": 32}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in options or not value.isdigit() or int(value) < 1:
            raise UserError(f"{argument!r} is none of {', '.join(f'{name}=NUMBER' for name in options)}.")
        options[key] = int(value)
    return options


def _trained(family: str) -> Path:
    record = train(
        compose("+experiment=demo", f"dataset=mini/{family}", "trainer=cpu", "eval_rows=20", "runs=runs/service")
    )
    return Path("runs/service") / record.name


def _rows(family: str) -> list[dict[str, Any]]:
    found = generate(split="eval", family=family, seed=0, train=20000, validation=1000, eval=ROWS)
    return [{key: value for key, value in dict(found[n]).items() if key not in ("label", "idx")} for n in range(ROWS)]


def _await_server(server: "subprocess.Popen[bytes]") -> None:
    while True:
        connection = HTTPConnection("127.0.0.1", PORT, timeout=5)
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            if server.poll() is not None:
                raise UserError("The service did not start.") from None
            time.sleep(0.2)
        finally:
            connection.close()


def _memory_mb(process: int) -> float:
    pages = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    run_script(main)
