"""`tfew.serve` itself with two processes: one model, one port, the same tasks."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.commands import start_command
from tests.service.running import wait_for
from tests.test_predict import trained, unlabelled
from tests.test_train import folder
from tfew.config import compose
from tfew.errors import UserError
from tfew.prediction.predictor import Predictor
from tfew.serve import serve

pytestmark = pytest.mark.slow
TEXT = unlabelled("complaint")[0]["text"]


class Service:
    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """By a connection of its own, so that any process may answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"content-type": "application/json"})
            with connection.getresponse() as answer:
                return answer.status, answer.read().decode()
        finally:
            connection.close()

    def is_well(self) -> bool:
        try:
            return self.ask("GET", "/healthz")[0] == 200
        except (OSError, HTTPException):
            return False

    def by_process(self, path: str = "/healthz") -> dict[str, dict[str, Any]]:
        """What each of the two says of itself."""
        found: dict[str, dict[str, Any]] = {}

        def add() -> bool:
            said = json.loads(self.ask("GET", path)[1])
            found[said["process"]] = said
            return len(found) == 2

        wait_for(add)
        return found


@contextmanager
def served(tmp_path: Path, *settings: str) -> Iterator[tuple[Any, Service]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start_command(
        "tfew.serve", f"adapters={tmp_path}/tasks.json", f"port={port}", "trainer=cpu", f"manage={tmp_path}/manage",
        *settings,
    )  # fmt: skip
    service = Service(port)
    try:
        wait_for(lambda: process.poll() is not None or service.is_well(), 300)
        assert process.poll() is None, process.communicate()
        yield process, service
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
            process.wait(60)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    (tmp_path / "manage").mkdir()
    run = folder(trained(tmp_path / "manage", "complaint"))
    (tmp_path / "tasks.json").write_text(json.dumps({"first": str(run)}))
    return run


def test_tasks_are_those_of_all_a_lost_process_comes_back_with_them_and_so_does_the_service(
    tasks: Path, tmp_path: Path
) -> None:
    (expected,) = Predictor.load(tasks, "trainer=cpu")([TEXT])

    def right(service: Service, task: str) -> bool:
        status, text = service.ask("POST", "/predict", {"task": task, "text": TEXT})
        assert status == 200, text
        found = json.loads(text)["labels"][0]
        return (found["label"], found["probability"]) == (expected.label, pytest.approx(expected.probability, abs=1e-5))

    with served(tmp_path, "processes=2") as (process, service):
        assert set(service.by_process()) == {"0", "1"}
        assert service.ask("POST", "/tasks", {"name": "second", "folder": tasks.name})[0] == 201
        assert {said["tasks"] for said in service.by_process().values()} == {2}
        assert all(right(service, "second") for _ in range(8)), "whichever answers"
        assert service.ask("POST", "/tasks", {"name": "second", "folder": tasks.name})[0] == 422
        assert service.ask("POST", "/tasks", {"name": "second", "folder": tasks.name, "replace": True})[0] == 201
        assert service.ask("DELETE", "/tasks/first")[0] == 204
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        before = children.read_text().split()
        os.kill(int(before[0]), signal.SIGKILL)
        wait_for(lambda: len(set(children.read_text().split()) - set(before)) == 1)
        both = service.by_process()
        assert {said["tasks"] for said in both.values()} == {1}
        assert all(right(service, "second") for _ in range(8))
        metrics = service.ask("GET", "/metrics")[1]
        assert {f'tfew_tasks{{process="{number}"}} 1.0' for number in "01"} <= set(metrics.splitlines())
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 0
        assert "2 processes; Ctrl-C ends it." in process.communicate()[1]
    with served(tmp_path) as (_, service):
        assert right(service, "second"), "what was added is there again"
        assert service.ask("POST", "/predict", {"task": "first", "text": TEXT})[0] == 404


@pytest.mark.parametrize("value", [0, -1, 1.5, "many"])
def test_a_number_of_processes_is_a_whole_number(value: object) -> None:
    with pytest.raises(UserError, match=f"processes={value} is not a whole number from 1 to"):
        serve(compose("adapter=.", f"processes={value}", config_name="serve"), [])
