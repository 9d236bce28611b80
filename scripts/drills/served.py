"""`tfew.serve` in its own processes, for drills: two small tasks, and their expected answers."""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from scripts.drills.load import Asked

ROOT = Path(__file__).parents[2]
FAMILY = "complaint"
ONE_TEMPLATE = ("templates=single", "templates.name='wording 1'")  # a third of the work that all three make
START_SECONDS = 300.0


class Served:
    """One `python -m tfew.serve` on a port; `checkout`: of this repository."""

    def __init__(self, folder: Path, port: int, *settings: str, checkout: Path = ROOT) -> None:
        self.port, self._log = port, folder / f"log-{port}"
        command = [
            sys.executable, "-m", "tfew.serve", f"adapters={folder}/tasks.json", f"port={port}", "trainer=cpu",
            *ONE_TEMPLATE, *settings,
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        environment.pop("OMP_NUM_THREADS", None)  # each has its share of all cores
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=log, stderr=log)
        end = time.monotonic() + START_SECONDS
        while not self._is_well():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"tfew.serve did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def end(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.terminate()
        return self.process.wait(120)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def metric(self, name: str) -> float:
        """Summed over processes."""
        lines = self._get("/metrics").splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def pids(self) -> list[int]:
        """Its own, and those of its workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]

    def _is_well(self) -> bool:
        try:
            self._get("/healthz")
        except (OSError, HTTPException):
            return False
        return True

    def _get(self, path: str) -> str:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path)
            with connection.getresponse() as answer:
                return answer.read().decode()
        finally:
            connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_tasks(folder: Path, rows: int = 60) -> list[Asked]:
    """Trains two adapters of one family, writes tasks.json, and gives items of both with the answers of `Predictor`."""
    from tfew.config import compose
    from tfew.prediction.predictor import Predictor
    from tfew.train import train

    logging.getLogger("tfew").setLevel(logging.WARNING)
    few = (f"dataset=mini/{FAMILY}", "trainer=cpu", "steps=20", "shots=16", "dataset.generator.eval=8")
    runs = {
        name: folder / train(compose("+experiment=mini_few_shot", *few, f"few_shot_seed={seed}", f"runs={folder}")).name
        for name, seed in (("first", 0), ("second", 1))
    }
    (folder / "tasks.json").write_text(json.dumps({name: str(run) for name, run in runs.items()}))
    predictor = Predictor.load(runs, "trainer=cpu", *ONE_TEMPLATE)
    items = [{"task": name, "text": text} for text in _texts(rows) for name in runs]
    found = predictor([item["text"] for item in items], [item["task"] for item in items])
    return [Asked(item, label.guess, label.probability) for item, label in zip(items, found, strict=True)]


def _texts(rows: int) -> Iterator[str]:
    things, words = (
        ("lemon", "river", "letter", "train", "lamp", "book"),
        ("bad", "wonderful", "late", "broken", "kind"),
    )
    for number in range(rows):
        yield f"the {things[number % 6]} was {words[number % 5]} and came {number} days after the {things[number % 4]}"
