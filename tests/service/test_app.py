"""The service over HTTP: answers against the predictor's own, each kind of refusal, tasks that come and go, its end."""

import asyncio
import csv
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from tests.test_predict import trained, unlabelled
from tests.test_train import folder
from tfew.config import compose
from tfew.environment.versions import own_version
from tfew.errors import UserError
from tfew.methods.task_bank import Scaling
from tfew.models.adapters_io import load_weights
from tfew.prediction.predictor import Predictor
from tfew.prediction.task_predictor import TaskPredictor
from tfew.serve import serve
from tfew.service.app import make_app
from tfew.service.limits import Limits
from tfew.service.metrics import Metrics
from tfew.service.queue import ClosedError, FullError, LabelQueue
from tfew.service.table import read_table

FAMILIES = ("complaint", "request")
LIMITS = Limits(20, 20_000, 60.0, ("testserver", "127.0.0.1"), None)
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "serve.md"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {family: folder(trained(root, family)) for family in FAMILIES}


@pytest.fixture(scope="module")
def predictor(runs: dict[str, Path]) -> Predictor:
    return Predictor.load(runs, "trainer=cpu")


@pytest.fixture
def queue(predictor: Predictor) -> Iterator[LabelQueue]:
    queue = LabelQueue(predictor, max_waiting=40, batch_rows=16)
    yield queue
    queue.close()
    queue.join()


def client_of(queue: LabelQueue, **changed: Any) -> TestClient:
    metrics = Metrics()
    queue._observe = metrics.observe_batch
    return TestClient(make_app(queue, metrics, replace(LIMITS, **changed)))


def items(number: int) -> list[dict[str, Any]]:
    rows = {family: unlabelled(family) for family in FAMILIES}
    return [{"task": FAMILIES[i % 2], "row": rows[FAMILIES[i % 2]][i % 32]} for i in range(number)]


def assert_answers(labels: list[dict[str, Any]], asked: list[dict[str, Any]], predictor: Predictor) -> None:
    expected = predictor([item["row"] for item in asked], [item["task"] for item in asked])
    for label, right in zip(labels, expected, strict=True):
        assert (label["task"], label["label"]) == (right.task, right.label)
        assert label["probabilities"] == pytest.approx(right.probabilities, abs=1e-5)
        assert label["probability"] == max(label["probabilities"].values())


def test_answers_are_the_predictors(queue: LabelQueue, predictor: Predictor) -> None:
    client, asked = client_of(queue), items(20)
    expected = client.post("/predict", json={"items": asked}).json()["labels"]
    queue.close()
    queue.join()
    assert_answers(expected, asked, predictor)
    assert all(label["inputs"] is None for label in expected)


def test_one_item_its_inputs_and_what_is_there(queue: LabelQueue) -> None:
    client = client_of(queue)
    (item,) = items(1)
    alone = client.post("/predict", json=item).json()["labels"]
    shown = client.post("/predict", json={"items": [item], "inputs": True}).json()["labels"][0]
    assert alone == [{**shown, "inputs": None}]
    assert len(shown["inputs"]) == 3
    assert all(str(next(iter(item["row"].values())))[:10] in text for text in shown["inputs"])
    described = client.get("/tasks").json()
    assert [task["name"] for task in described] == list(FAMILIES)
    assert set(alone[0]["probabilities"]) == set(described[0]["labels"])
    assert client.get("/healthz").json() == {
        "status": "ok",
        "tasks": 2,
        "waiting_rows": 0,
        "oldest_row_seconds": 0.0,
    }
    metrics = client.get("/metrics").text
    assert 'tfew_requests_total{path="/predict",status="200"} 2.0' in metrics
    assert "tfew_rows_total 2.0" in metrics
    schema = client.get("/openapi.json").json()
    assert {"/predict", "/table", "/tasks", "/healthz", "/metrics"} <= schema["paths"].keys()
    assert schema["info"]["version"] == own_version()


def test_inputs_are_what_was_sent_not_what_was_cut_off(runs: dict[str, Path]) -> None:
    short = Predictor.load(runs, "trainer=cpu", "max_tokens=12")
    queue = LabelQueue(short, 40, 16)
    item = {"task": "complaint", "text": "the lemon looks poor. " * 20}
    (found,) = client_of(queue).post("/predict", json={"items": [item], "inputs": True}).json()["labels"]
    queue.close()
    queue.join()
    whole = [prompt.input for prompt in short.tasks["complaint"].prompts(1, item["text"])]
    for sent, prompt in zip(found["inputs"], whole, strict=True):
        assert prompt.startswith(sent.strip())
        assert 10 < len(sent) < len(prompt) / 3


def test_requests_that_come_together_share_batches(queue: LabelQueue, predictor: Predictor) -> None:
    batches: list[int] = []
    asked = items(24)

    async def together() -> list[Any]:
        with queue.accept():
            return await asyncio.gather(*(queue.label([(item["task"], item["row"])]) for item in asked))

    queue._observe = lambda rows, _: batches.append(rows)
    answers = [answer for (answer,) in asyncio.run(together())]
    queue.close()
    queue.join()
    assert sum(batches) == 24
    assert max(batches) == 16, "as many as a batch takes, and no more"
    labels = [vars(answer.labelled) for answer in answers]
    assert_answers(labels, asked, predictor)


def test_each_kind_of_bad_request_has_its_answer(queue: LabelQueue, predictor: Predictor) -> None:
    client = client_of(queue)
    item = items(1)[0]
    refused = {
        404: [{**item, "task": "nobody"}],
        413: [{"items": items(21)}, {"task": "complaint", "text": "x" * 30_000}],
        422: [
            {}, [], None, 3, "text", {"items": []}, {"items": [{}]}, {"items": "x"}, {"row": item["row"]},
            {"task": "complaint"}, {"task": "complaint", "text": "a", "row": {}}, {**item, "other": 1},
            {"task": "complaint", "row": {"no": "column"}}, {"task": 3, "text": "a"}, {"task": "complaint", "text": 3},
        ],
    }  # fmt: skip
    for status, bodies in refused.items():
        for body in bodies:
            answer = client.post("/predict", json=body)
            assert (answer.status_code, body) == (status, body)
            assert isinstance(answer.json()["detail"], str)
    mixed = {"items": [item, {"task": "complaint", "row": {"no": "column"}}]}
    assert client.post("/predict", json=mixed).json()["detail"].startswith("Item 2: ")
    assert client.post("/predict", content=b"{", headers={"content-type": "application/json"}).status_code == 422
    assert client.get("/predict").status_code == 405
    assert client.get("/nowhere").status_code == 404
    assert client.get("/healthz", headers={"host": "evil.example"}).status_code == 400
    assert client.post("/predict", content=json.dumps(item), headers={"content-type": "text/plain"}).status_code == 422
    assert_answers(client.post("/predict", json=item).json()["labels"], [item], predictor)


def test_a_table_comes_back_labelled(queue: LabelQueue, predictor: Predictor) -> None:
    client = client_of(queue)
    rows = unlabelled("complaint")[:25]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*rows[0], "label"])
    writer.writeheader()
    writer.writerows({**row, "label": 'a "b", c'} for row in rows)
    kind = {"content-type": "text/csv; charset=utf-8"}
    answer = client.post("/table?task=complaint", content=text.getvalue().encode("utf-8-sig"), headers=kind)
    assert answer.headers["content-type"].startswith("text/csv")
    labelled = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["predicted_label"] for row in labelled] == [found.label for found in predictor(rows, "complaint")]
    assert {row["label"] for row in labelled} == {'a "b", c'}
    assert [{key: row[key] for key in rows[0]} for row in labelled] == [
        {key: str(value) for key, value in row.items()} for row in rows
    ]
    assert (
        client.post("/table?task=complaint", content=b"text\nx\n", headers={"content-type": "text/plain"}).status_code
        == 415
    )
    assert client.post("/table", content=b"text\nx\n", headers=kind).status_code == 422
    assert client.post("/table?task=nobody", content=b"text\nx\n", headers=kind).status_code == 404
    for body, message in (
        (b"", "is empty"), (b"text\n", "no rows"), (b"text,text\na,b\n", "two columns called 'text'"),
        (b"text\n\xc3\xa4\n\xff\n", "Row 2 (line 3) is not UTF-8"), (b'text\n"open\n', "Row 1 (line 2) cannot be read"),
        (b"text,b\nonly one\n", "Row 1 (line 2) has 1 cell, the header has 2"),
        (b"a;Text\n1;x\n", "lacks 'text'; it has 'a', 'Text' (did you mean 'Text'?)"),
    ):  # fmt: skip
        answer = client.post("/table?task=complaint", content=body, headers=kind)
        assert answer.status_code == 422
        assert message in answer.json()["detail"]


def test_tables_by_delimiter() -> None:
    assert read_table(b"a;b\n1,5;2\n", 9) == (["a", "b"], [{"a": "1,5", "b": "2"}])
    assert read_table("ä| b\nü| 2\n".encode("utf-16"), 9) == (["ä", "b"], [{"ä": "ü", "b": "2"}])
    assert read_table(b"a\tb\r\n1\t2\r\n", 9) == (["a", "b"], [{"a": "1", "b": "2"}])
    with pytest.raises(UserError, match=r"Row 2 \(line 3\) has 3 cells"):
        read_table(b"a,b\n1,2\n1,2,3\n", 9)


def test_tasks_come_and_go_while_it_runs(runs: dict[str, Path], tmp_path: Path) -> None:
    queue = LabelQueue(Predictor.load({"first": runs["complaint"]}, "trainer=cpu"), 40, 16)
    client = client_of(queue, manage=runs["request"].parent)
    new = {"name": "second", "folder": runs["request"].name}
    item = {"row": unlabelled("complaint")[0]}
    before = client.post("/predict", json=item).json()["labels"]
    assert client.post("/tasks", json=new).status_code == 201
    assert client.post("/tasks", json=new).status_code == 422
    assert client.post("/predict", json=item).status_code == 422, "two tasks: which?"
    other = client.post("/predict", json={"task": "second", "row": unlabelled("request")[0]}).json()["labels"][0]
    expected = Predictor.load(runs["request"], "trainer=cpu")([unlabelled("request")[0]])[0]
    assert other["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    assert client.delete("/tasks/second").status_code == 204
    assert client.delete("/tasks/second").status_code == 404
    assert client.post("/predict", json=item).json()["labels"] == before
    (tmp_path / "adapter").mkdir()
    for folder_name in ("..", "/etc", "nowhere", "../..", str(tmp_path / "adapter")):
        assert client.post("/tasks", json={"name": "x", "folder": folder_name}).status_code == 422
    assert client_of(queue).post("/tasks", json=new).status_code == 403
    assert client_of(queue).delete("/tasks/first").status_code == 403
    queue.close()
    queue.join()


class Slow:
    """In a predictor's place: answers nothing until it is let."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batch_size = 1
        self.tasks: Mapping[str, Any] = {"t": None}

    def prepare(self, rows: Any) -> list[Any]:
        self.go.wait()
        return [UserError("no label") for _ in rows]

    def answer(self, prepared: Any) -> list[Any]:
        raise AssertionError


def test_a_full_queue_refuses_a_closed_one_ends_and_neither_loses_anything() -> None:
    slow = Slow()
    queue = LabelQueue(slow, max_waiting=3, batch_rows=1)  # type: ignore[arg-type]

    async def story() -> list[Any]:
        with queue.accept():
            waiting = [asyncio.create_task(queue.label([("t", "a")])) for _ in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(FullError):
                await queue.label([("t", "a")])
            assert queue.unanswered == 3
            queue.close()
            with pytest.raises(ClosedError), queue.accept():
                pass
            assert not queue.ended
            slow.go.set()
            return await asyncio.gather(*waiting)

    answers = asyncio.run(story())
    assert [str(answer) for (answer,) in answers] == ["no label"] * 3
    queue.join()
    assert queue.ended
    assert queue.unanswered == 0


class Picky(Slow):
    """Labels every row but one, which breaks the whole batch."""

    def prepare(self, rows: Any) -> list[Any]:
        self.go.wait()
        if any(row == "poison" for _, _, row in rows):
            raise RuntimeError("out of memory")
        return [UserError("no label") for _ in rows]


def test_a_row_that_breaks_the_model_breaks_nobody_elses_request() -> None:
    picky = Picky()
    queue = LabelQueue(picky, max_waiting=10, batch_rows=10)  # type: ignore[arg-type]

    async def story() -> list[Any]:
        with queue.accept():
            texts = ("first", "a", "poison", "b")  # the first is alone in its batch
            waiting = []
            for text in texts:
                waiting.append(asyncio.create_task(queue.label([("t", text)])))
                await asyncio.sleep(0.02)
            picky.go.set()
            return await asyncio.gather(*waiting, return_exceptions=True)

    first, a, poison, b = asyncio.run(story())
    assert [str(answer) for (answer,) in (first, a, b)] == ["no label"] * 3
    assert str(poison) == "out of memory"
    assert queue.unanswered == 0
    queue.close()
    queue.join()


def test_whose_loop_has_ended_does_not_end_the_labelling() -> None:
    slow = Slow()
    queue = LabelQueue(slow, max_waiting=3, batch_rows=1)  # type: ignore[arg-type]

    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.label([("t", "a")]), 0.02)

    asyncio.run(impatient())
    slow.go.set()
    ((answer,),) = [asyncio.run(queue.label([("t", "a")]))]
    assert str(answer) == "no label"
    queue.close()
    queue.join()


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    app = make_app(None, Metrics(), Limits(20, 100, 0.05, ("testserver",), None))  # type: ignore[arg-type]
    scope = {
        "type": "http", "method": "POST", "path": "/predict", "query_string": b"", "http_version": "1.1",
        "headers": [(b"host", b"testserver"), (b"content-type", b"application/json")],
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        if not sent:
            await asyncio.sleep(0.02)  # a little comes every time, and never the end
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408
    assert b"timeout_seconds=" in sent[1]["body"]


def test_a_thousand_tasks_at_once(runs: dict[str, Path], predictor: Predictor, tmp_path: Path) -> None:
    """Each with vectors of its own: those of a run, and as many made from them as there are places for."""
    many = Predictor.load(runs, "trainer=cpu")
    bank = many._bank
    assert bank is not None
    template, labeller = many._tasks["complaint"], many._tasks["complaint"].task_predictor
    method = many._find_run(runs["complaint"]).method()
    assert method is not None
    weights = load_weights(runs["complaint"])
    base = method.scalings(many.model, weights)
    for number in range(998):
        name, strength = f"task {number}", 1 + number / 100
        own = TaskPredictor(
            name, labeller.spec, list(labeller._templates.values()), labeller.norm, labeller.temperature
        )
        place = bank.add({layer: stronger(scaling, strength) for layer, scaling in base.items()})
        many._tasks[name] = replace(template, task_predictor=own, bank_index=place)
    queue = LabelQueue(many, max_waiting=2000, batch_rows=64)
    client = client_of(queue, max_items=1000, max_body_bytes=10**6)
    assert client.get("/healthz").json()["tasks"] == 1000
    row = unlabelled("complaint")[0]
    asked = [{"task": name, "row": row} for name in ["complaint", *(f"task {number}" for number in range(0, 998, 4))]]
    labels = client.post("/predict", json={"items": asked}).json()["labels"]
    queue.close()
    queue.join()
    assert [label["task"] for label in labels] == [item["task"] for item in asked]
    by_task = {label["task"]: label["probability"] for label in labels}
    (found,) = predictor([row], ["complaint"])
    assert by_task["complaint"] == pytest.approx(found.probability, abs=1e-5)
    assert by_task["task 0"] == pytest.approx(found.probability, abs=1e-5)
    assert len({round(value, 7) for value in by_task.values()}) > 150, "each has its own vectors"
    alone = Predictor.load(runs, "trainer=cpu")
    assert alone._bank is not None
    for number in (4, 500, 996):  # and they are the right ones: the model with these alone
        scaled = {name: 1 + (1 + number / 100) * (value - 1) for name, value in weights.items()}
        place = alone._bank.add(method.scalings(alone.model, scaled))
        alone._tasks["complaint"] = replace(template, bank_index=place)
        (found,) = alone([row], ["complaint"])
        alone._bank.remove(place)
        assert by_task[f"task {number}"] == pytest.approx(found.probabilities[_label_of(labels, number)], abs=1e-5)


def stronger(scaling: Scaling, strength: float) -> Scaling:
    """What (IA)³'s vectors do, with their distance from ones made larger."""
    sides = (scaling.inputs, scaling.outputs)
    return Scaling(*(None if factor is None else 1 + strength * (factor - 1) for factor in sides))


def _label_of(labels: list[dict[str, Any]], number: int) -> str:
    return next(str(label["label"]) for label in labels if label["task"] == f"task {number}")


def test_who_waits_too_long_is_told(queue: LabelQueue) -> None:
    slow = Slow()
    stuck = LabelQueue(slow, max_waiting=3, batch_rows=1)  # type: ignore[arg-type]
    client = client_of(stuck, timeout_seconds=0.05)
    for _ in range(2):
        assert client.post("/predict", json={"task": "t", "text": "a"}).status_code == 504
    assert stuck.unanswered == 1, "what waited is given up; one row is being labelled"
    full = client.post("/predict", json={"items": [{"task": "t", "text": "a"}] * 3})
    assert (full.status_code, full.headers["retry-after"]) == (429, "1")
    slow.go.set()
    while stuck.unanswered:
        time.sleep(0.01)
    stuck.close()
    assert client.post("/predict", json={"task": "t", "text": "a"}).status_code == 503
    assert client.get("/healthz").status_code == 503
    stuck.join()


def test_the_client_of_the_readme(queue: LabelQueue, predictor: Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    server = uvicorn.Server(uvicorn.Config(make_app(queue, Metrics(), LIMITS), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    (code,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
        if "urlopen" in block
    )
    assert len(code.splitlines()) <= 10
    names = {"spam": "complaint", "topic": "request", ":8000": f":{port}"}
    try:
        exec(re.sub("spam|topic|:8000", lambda found: names[found.group()], code), {})
    finally:
        server.should_exit = True
        thread.join()
    found = predictor([{"text": "win a prize"}, {"text": "rain in may"}], ["complaint", "request"])
    printed = [line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines()]
    assert [words for words, _ in printed] == [f"{right.task} {right.label}" for right in found]
    assert [float(number) for _, number in printed] == pytest.approx([right.probability for right in found], abs=1e-5)


def test_the_page_brings_all_it_needs(queue: LabelQueue) -> None:
    answer = client_of(queue).get("/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", answer.text)
    assert ".innerHTML" not in answer.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "adapter=runs/NAME, or adapters="),
        (["adapter=.", "adapters=t.json"], "adapter=runs/NAME, or adapters="),
        (["adapter=.", "port=70000"], "port=70000"),
        (["adapter=.", "timeout_seconds=0"], "timeout_seconds=0"),
        (["adapter=.", "max_waiting=10"], "max_waiting=10 is below"),
        (["adapter=.", "manage=nowhere"], "manage=nowhere is no folder"),
        (["adapter=.", "manage=."], r"adapters=tasks\.json"),
        (["adapter=.", "allowed_hosts=[a.org, 'lab*.org']"], r"allowed_hosts=lab\*\.org is no list of names"),
        (["adapter=.", "allowed_hosts=a.org:8000"], "allowed_hosts=a.org:8000 is no list .* without a port"),
        (["adapter=.", "allowed_hosts=3"], "allowed_hosts=3 is no list"),
        (["adapter=.", "host=no.such.host.example"], "cannot be listened on"),
    ],
)
def test_settings_that_cannot_work(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        serve(compose(*overrides, config_name="serve"), overrides)


@pytest.mark.ci
@pytest.mark.slow
def test_sigterm_answers_what_was_accepted_and_refuses_the_rest(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "tasks.json").write_text(json.dumps({name: str(path) for name, path in runs.items()}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tfew.serve", f"adapters={tmp_path}/tasks.json", "trainer=cpu", f"port={port}"]
    process = subprocess.Popen(command)
    try:
        until_it_answers(port, process)
        asked = items(32)
        body = json.dumps({"items": asked})
        answered = threading.Semaphore(0)

        def statuses(_: int) -> list[int]:
            """Of one request after another on one connection, until one is refused."""
            connection, found = HTTPConnection("127.0.0.1", port, timeout=60), []
            while not found or found[-1] == 200:
                connection.request("POST", "/predict", body, {"content-type": "application/json"})
                with connection.getresponse() as answer:
                    found.append(answer.status)
                    content = json.load(answer)
                assert len(content["labels"] if answer.status == 200 else [content["detail"]]) in (32, 1)
                answered.release()
            connection.close()
            return found

        with ThreadPoolExecutor(8) as pool:
            found = [pool.submit(statuses, number) for number in range(8)]
            for _ in range(12):
                assert answered.acquire(timeout=60)
            process.send_signal(signal.SIGTERM)
            ends = [future.result() for future in found]  # an answer that never came would raise here
        assert process.wait(timeout=60) == 0
        assert {status for status, *_ in ends} == {200}
        assert [found[-1] for found in ends] == [503] * 8
        assert all(status == 200 for found in ends for status in found[:-1])
    finally:
        process.kill()
        process.wait()


def until_it_answers(port: int, process: "subprocess.Popen[bytes]") -> None:
    while True:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
            return
        except OSError:
            assert process.poll() is None
            time.sleep(0.2)
        finally:
            connection.close()
