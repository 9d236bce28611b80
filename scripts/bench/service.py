"""The service under load: `python -m scripts.bench.service [requests=10000] [clients=32]`.

Trains eight small tasks on mini-T0 (kept in runs/service), serves them, and asks: mixed tasks from many clients, one
task from as many, and one request at a time. Every answer is compared with the predictor's own. Prints requests a
second, latencies, lost and wrong answers, and the server's memory before and after.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tfew.config import compose
from tfew.errors import UserError
from tfew.mini_t0.world import generate
from tfew.predictor import Predictor
from tfew.train import train

FAMILIES = ("entails", "commits", "consequence", "ending", "blank", "same_sense", "request", "complaint")
ROWS = 100  # of each task, asked again and again
PORT = 8765


def main(arguments: Sequence[str]) -> int:
    options = {"requests": 10_000, "clients": 32}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in options or not value.isdigit() or int(value) < 1:
            raise UserError(f"{argument!r} is none of {', '.join(f'{name}=NUMBER' for name in options)}.")
        options[key] = int(value)
    folders = {family: _trained(family) for family in FAMILIES}
    rows = {family: _rows(family) for family in FAMILIES}
    predictor = Predictor.load(folders, "trainer=cpu")
    expected = {name: predictor(rows[name], name) for name in FAMILIES}
    tasks = Path("runs/service/tasks.json")
    tasks.write_text(json.dumps({name: str(path.absolute()) for name, path in folders.items()}), encoding="utf-8")
    command = [sys.executable, "-m", "tfew.serve", f"adapters={tasks}", "trainer=cpu", f"port={PORT}"]
    server = subprocess.Popen(command)
    try:
        _await_server(server)
        ask = [(name, number) for name in FAMILIES for number in range(ROWS)]
        source = random.Random(0)
        mixed = source.choices(ask, k=options["requests"])
        one = source.choices([pair for pair in ask if pair[0] == "complaint"], k=options["requests"] // 4)
        before = _memory_bytes(server.pid)
        for title, asked, clients in (
            ("mixed tasks", mixed, options["clients"]),
            ("one task", one, options["clients"]),
            ("one request at a time", source.choices(ask, k=options["requests"] // 20), 1),
        ):
            seconds, lost, wrong, took = _load(asked, clients, rows, expected)
            median, high = np.percentile(seconds, [50, 99]) * 1000
            print(
                f"{title:<22} {len(asked):>6} requests, {clients:>2} clients: {len(asked) / took:7.1f} a second,"
                f" median {median:6.1f} ms, 99 % {high:6.1f} ms; {lost} lost, {wrong} wrong"
            )
        after = _memory_bytes(server.pid)
        print(f"memory of the server: {before / 1e6:.0f} MB before, {after / 1e6:.0f} MB after")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    return 0


def _trained(family: str) -> Path:
    record = train(
        compose("+experiment=demo", f"dataset=mini/{family}", "trainer=cpu", "eval_rows=20", "runs=runs/service")
    )
    return Path("runs/service") / record.name


def _rows(family: str) -> list[dict[str, Any]]:
    found = generate(split="eval", family=family, seed=0, train=20000, validation=1000, eval=ROWS)
    return [{key: value for key, value in dict(found[n]).items() if key not in ("label", "idx")} for n in range(ROWS)]


def _load(asked: Sequence[tuple[str, int]], clients: int, rows: Any, expected: Any) -> tuple[Any, int, int, float]:
    """Seconds of each request, how many were lost or answered otherwise than by the predictor, seconds in all."""
    waiting, lock = iter(tqdm(asked, unit="request", mininterval=1)), threading.Lock()
    seconds: list[float] = []
    failures = {"lost": 0, "wrong": 0}

    def client() -> None:
        connection = HTTPConnection("127.0.0.1", PORT, timeout=120)
        while True:
            with lock:
                pair = next(waiting, None)
            if pair is None:
                return
            name, number = pair
            started = time.perf_counter()
            try:
                body = json.dumps({"task": name, "row": rows[name][number]})
                connection.request("POST", "/predict", body, {"content-type": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
                (label,) = json.loads(content)["labels"]
            except (OSError, ValueError, KeyError):
                failures["lost"] += 1
                connection.close()
                continue
            seconds.append(time.perf_counter() - started)
            right = expected[name][number]
            off = max(abs(label["probabilities"][key] - value) for key, value in right.probabilities.items())
            failures["wrong"] += off > 1e-5

    started = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds, failures["lost"], failures["wrong"], time.perf_counter() - started


def _await_server(server: "subprocess.Popen[bytes]") -> None:
    while True:
        try:
            connection = HTTPConnection("127.0.0.1", PORT, timeout=5)
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            if server.poll() is not None:
                raise UserError("The service did not start.") from None
            time.sleep(0.2)


def _memory_bytes(process: int) -> int:
    pages = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
