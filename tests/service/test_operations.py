"""Behaviour when a client disconnects, a worker hangs, a table is too long, or an adapter is invalid."""

import asyncio
import csv
import io
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.service.asgi import ask
from tests.service.stubs import Recorder
from tests.test_predict import trained, unlabelled
from tests.test_train import folder as folder_of
from tfew.prediction.predictor import Predictor
from tfew.service.app import make_app
from tfew.service.limits import MAX_BODIES, Limits
from tfew.service.metrics import Metrics
from tfew.service.queue import LabelQueue

LIMITS = Limits(20, 10**7, 60.0, ("testserver",), None)


def table(rows: int) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([["text"], *([f"row {number}"] for number in range(rows))])
    return text.getvalue().encode()


@pytest.mark.parametrize(("path", "kind"), [("/table?task=t", "text/csv"), ("/predict", "application/json")])
def test_once_the_client_has_gone_nothing_more_is_labelled(path: str, kind: str) -> None:
    recorder = Recorder(go=False)
    queue = LabelQueue(recorder, 5000, 4)  # type: ignore[arg-type]
    app = make_app(queue, Metrics(), replace(LIMITS, max_items=5000))
    many = b'{"items":[' + b",".join([b'{"text":"a"}'] * 1000) + b"]}"

    async def story() -> int:
        gone = asyncio.Event()
        asking = asyncio.create_task(ask(app, path, table(1000) if kind == "text/csv" else many, kind, gone))
        while not recorder.batches:
            await asyncio.sleep(0.01)
        gone.set()
        status, _ = await asyncio.wait_for(asking, 10)  # while its batch is still being labelled
        recorder.go.set()
        return status

    assert asyncio.run(story()) == 499
    queue.close()
    queue.join(10)
    assert len(recorder.batches) == 1
    assert queue.unanswered == 0


def test_a_table_as_a_whole_is_bounded() -> None:
    queue = LabelQueue(Recorder(), 5000, 16)  # type: ignore[arg-type]
    client = TestClient(make_app(queue, Metrics(), replace(LIMITS, table_rows=30)))
    kind = {"content-type": "text/csv"}
    assert client.post("/table?task=t", content=table(30), headers=kind).status_code == 422, "no label, but asked"
    long = client.post("/table?task=t", content=table(31), headers=kind)
    assert (long.status_code, "30 rows (table_rows=)" in long.json()["detail"]) == (413, True)
    huge = table(500_000)
    started = time.process_time()
    assert client.post("/table?task=nobody", content=huge, headers=kind).status_code == 404
    assert client.post("/table?task=t", content=huge, headers=kind).status_code == 413
    assert time.process_time() - started < 1.5
    queue.close()


def test_health_tells_a_stuck_worker_and_a_dead_one() -> None:
    recorder = Recorder(go=False)
    queue = LabelQueue(recorder, 10, 4)  # type: ignore[arg-type]
    client = TestClient(make_app(queue, Metrics(), replace(LIMITS, timeout_seconds=0.2)))
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.post("/predict", json={"text": "a"}).status_code == 504
    time.sleep(0.05)
    stuck = client.get("/healthz")
    assert (stuck.status_code, stuck.json()["status"]) == (503, "stuck")
    assert stuck.json()["oldest_row_seconds"] > 0.2
    assert "tfew_oldest_row_seconds 0." in client.get("/metrics").text
    recorder.go.set()
    while queue.busy_seconds:
        time.sleep(0.01)
    assert client.get("/healthz").status_code == 200
    queue.close()
    queue.join(10)
    queue.closing = False  # its thread has ended, and nobody wanted that
    assert client.get("/healthz").json()["status"] == "stuck"


def test_bodies_are_bounded_together() -> None:
    queue = LabelQueue(Recorder(go=False), 10, 4)  # type: ignore[arg-type]
    app = make_app(queue, Metrics(), replace(LIMITS, max_body_bytes=1000))
    body = b'{"text":"a"}' + b" " * 900

    async def story() -> list[int]:
        asking = [asyncio.create_task(ask(app, "/predict", body, client=str(n))) for n in range(MAX_BODIES + 10)]
        await asyncio.sleep(0.1)
        done = [task.result()[0] for task in asking if task.done()]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        return done

    statuses = asyncio.run(story())
    assert statuses.count(429) >= 5
    assert asyncio.run(ask(app, "/predict", b'{"text":', client="x"))[0] == 422, "room again"
    queue.predictor.go.set()  # type: ignore[attr-defined]
    queue.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(trained(tmp_path_factory.mktemp("runs"), "complaint"))


@pytest.fixture
def queue(run: Path) -> Iterator[LabelQueue]:
    queue = LabelQueue(Predictor.load({"first": run}, "trainer=cpu"), 40, 16)
    yield queue
    queue.close()
    queue.join(10)


def test_names_that_are_none_and_tasks_with_a_slash(queue: LabelQueue, run: Path) -> None:
    client = TestClient(make_app(queue, Metrics(), replace(LIMITS, manage=run.parent)), raise_server_exceptions=False)
    for folder in ("\0", "a\0b", "x" * 300, "x/" * 3000, "../" * 3000, "", "."):
        answer = client.post("/tasks", json={"name": "x", "folder": folder})
        assert answer.status_code == 422
        assert str(run.parent) not in answer.text
    for name in ("a/b", "a b/ü?#", "..", "x/..", "/"):
        assert client.post("/tasks", json={"name": name, "folder": run.name}).status_code == 201
        quoted = "".join(f"%{byte:02x}" for byte in name.encode())
        assert client.delete(f"/tasks/{quoted}").status_code == 204
    assert [task["name"] for task in client.get("/tasks").json()] == ["first"]


def test_an_adapter_that_cannot_be_read_is_told_without_the_servers_paths(
    queue: LabelQueue, run: Path, tmp_path: Path
) -> None:
    client = TestClient(make_app(queue, Metrics(), replace(LIMITS, manage=tmp_path)), raise_server_exceptions=False)
    for name in ("adapter.json", "adapter.safetensors", "config.yaml", "result.json", "temperature.json"):
        sent = tmp_path / name.replace(".", "_")
        sent.mkdir()
        for path in run.iterdir():
            if path.name != name and path.is_file():
                (sent / path.name).write_bytes(path.read_bytes())
        os.mkfifo(sent / name)
        answer = client.post("/tasks", json={"name": name, "folder": sent.name})
        assert (answer.status_code, "no regular file" in answer.json()["detail"]) == (422, True)
        assert str(tmp_path) not in answer.text
        assert f"{sent.name}" in answer.text or name in answer.text


@pytest.mark.parametrize("where", ["config.yaml", "adapter.json"])
def test_a_run_of_another_base_model_is_refused(queue: LabelQueue, run: Path, tmp_path: Path, where: str) -> None:
    client = TestClient(make_app(queue, Metrics(), replace(LIMITS, manage=tmp_path)), raise_server_exceptions=False)
    sent = tmp_path / "sent"
    sent.mkdir()
    for path in run.iterdir():
        if path.is_file():
            (sent / path.name).write_bytes(path.read_bytes())
    if where == "config.yaml":
        text = (sent / where).read_text()
        (sent / where).write_text(
            text.replace("model:\n  name: mini_t0\n  path: ", "model:\n  name: mini_t0\n  path: evil/")
        )
        assert (sent / where).read_text() != text
    else:
        from tfew.files.checksums import from_checked_json, to_checked_json

        described = from_checked_json((sent / where).read_text())
        described["base"] = {"name": "another", "path": "evil/model"}
        (sent / where).write_text(to_checked_json(described))
    answer = client.post("/tasks", json={"name": "x", "folder": "sent"})
    assert answer.status_code == 422
    assert "model" in answer.json()["detail"]
    assert ("evil" if where == "config.yaml" else "another") in answer.json()["detail"]


def test_reading_an_adapter_keeps_no_row_waiting(queue: LabelQueue, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(queue, Metrics(), replace(LIMITS, manage=run.parent, timeout_seconds=5.0))
    hangs, read = threading.Event(), queue.predictor.read_task

    def slow(*arguments: Any, **options: Any) -> Any:
        hangs.wait(20)
        return read(*arguments, **options)

    monkeypatch.setattr(queue.predictor, "read_task", slow)
    new = b'{"name": "second", "folder": "%s"}' % run.name.encode()
    item = b'{"task": "first", "text": "%s"}' % unlabelled("complaint")[0]["text"].encode()

    async def story() -> list[int]:
        adding = asyncio.create_task(ask(app, "/tasks", new))
        await asyncio.sleep(0.05)
        meanwhile = [(await ask(app, "/predict", item))[0], (await ask(app, "/tasks", new))[0]]
        hangs.set()
        return [*meanwhile, (await adding)[0]]

    assert asyncio.run(story()) == [200, 429, 201]
    assert set(queue.predictor.tasks) == {"first", "second"}


def test_every_answer_forbids_guessing_and_keeping(queue: LabelQueue) -> None:
    client = TestClient(make_app(queue, Metrics(), LIMITS), raise_server_exceptions=False)
    answers = [client.get(path) for path in ("/", "/tasks", "/nowhere", "/openapi.json", "/metrics")]
    answers.append(client.get("/tasks", headers={"host": "evil.example"}))
    answers.append(client.post("/predict", content=b"{"))
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert len(answer.headers["x-request-id"]) == 32
    mine = client.get("/tasks", headers={"x-request-id": "job-7.1"})
    assert mine.headers["x-request-id"] == "job-7.1"
    for bad in ("a b", "x" * 65, "<script>", ""):
        assert client.get("/tasks", headers={"x-request-id": bad}).headers["x-request-id"] != bad


def test_the_description_names_bodies_and_examples(queue: LabelQueue) -> None:
    described = TestClient(make_app(queue, Metrics(), LIMITS)).get("/openapi.json").json()
    schemas = described["components"]["schemas"]
    for path, kinds in (("/predict", {"Item", "PredictRequest"}), ("/tasks", set())):
        body = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert body["examples"]["one"]["value"]
        assert {found["$ref"].rpartition("/")[2] for found in body["schema"].get("oneOf", [])} == kinds
        assert kinds <= schemas.keys()
