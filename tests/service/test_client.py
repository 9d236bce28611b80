"""The client against the app behind the server's own connections."""

import multiprocessing
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from tests.service.running import running, wait_for
from tests.service.stubs import Recorder
from tfew.prediction.task_predictor import Labelled
from tfew.service.app import make_app
from tfew.service.client import Client, ServiceError
from tfew.service.connections import ConnectionLimits
from tfew.service.limits import Limits
from tfew.service.metrics import Metrics
from tfew.service.queue import LabelQueue
from tfew.service.tokens import Tokens

TOKEN = "t" * 30
LIMITS = Limits(4, 10**6, 20.0, ("127.0.0.1",), None)


class Echo(Recorder):
    """Labels each row by its own text."""

    def prepare(self, rows: Any) -> list[Any]:
        super().prepare(rows)
        return [row for _, _, row in rows]

    def answer(self, prepared: Any) -> list[Any]:
        return [Labelled("t", str(text), 1.0, {str(text): 1.0}) for text in prepared]


def test_rows_come_back_in_order_in_as_many_requests_as_it_takes() -> None:
    queue = LabelQueue(Echo(), 20, 4)  # type: ignore[arg-type]
    app = make_app(queue, Metrics(), LIMITS, Tokens.parse(f"me: {TOKEN} predict", "here"))
    with running(app, queue, ConnectionLimits(20, 60, 60)) as (port, _):
        with Client(f"http://127.0.0.1:{port}/", TOKEN, items=4) as client:
            rows = [{"task": "t", "text": f"ä {number}"} for number in range(10)]
            assert [found["label"] for found in client.predict(rows)] == [row["text"] for row in rows]
            assert [task["name"] for task in client.tasks()] == ["t"]
            assert client.health()["status"] == "ok"
            with pytest.raises(ServiceError, match=r"no task 'x'.*status 404, request [0-9a-f]{32}"):
                client.predict([{"task": "x", "text": ""}])
            with pytest.raises(ServiceError, match="lacks the right 'manage'"):
                client.remove_task("a/b")
        with Client(f"http://127.0.0.1:{port}") as stranger, pytest.raises(ServiceError, match="status 401"):
            stranger.tasks()


@pytest.mark.parametrize("retries", [0, 8])
def test_a_busy_service_is_asked_again(retries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    echo = Echo(go=False)
    queue = LabelQueue(echo, 4, 4)  # type: ignore[arg-type]
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        echo.go.set()  # while the client waits, it has time again

    monkeypatch.setattr("tfew.service.client.time", SimpleNamespace(sleep=pause, monotonic=time.monotonic))
    with running(make_app(queue, Metrics(), LIMITS), queue, ConnectionLimits(20, 60, 60)) as (port, _):
        first = Client(f"http://127.0.0.1:{port}")
        filling = threading.Thread(target=first.predict, args=([{"text": "a"}] * 4,))
        filling.start()
        wait_for(lambda: queue.unanswered == 4)
        with Client(f"http://127.0.0.1:{port}", retries=retries) as second:
            if retries:
                assert second.predict([{"text": "b"}])[0]["label"] == "b"
                assert pauses[0] >= 1, "retry-after"
            else:
                with pytest.raises(ServiceError, match="status 429"):
                    second.predict([{"text": "b"}])
        echo.go.set()
        filling.join()
        first.close()


def test_threads_share_a_client() -> None:
    queue = LabelQueue(Echo(), 100, 4)  # type: ignore[arg-type]
    texts = [str(number) for number in range(64)]
    with (
        running(make_app(queue, Metrics(), LIMITS), queue, ConnectionLimits(20, 60, 60)) as (port, _),
        Client(f"http://127.0.0.1:{port}", retries=0) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        found = threads.map(lambda text: client.predict([{"task": "t", "text": text}])[0]["label"], texts)
        assert list(found) == texts


shared: dict[str, Client] = {}  # with forks, as a global variable is


def labels_of_shared(texts: list[str]) -> list[str]:
    return labels_of(shared["client"], texts)


def labels_of(client: Client, texts: list[str]) -> list[str]:
    return [client.predict([{"task": "t", "text": text}])[0]["label"] for text in texts]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_opens_its_own_connection() -> None:
    queue = LabelQueue(Echo(), 100, 4)  # type: ignore[arg-type]
    with (
        running(make_app(queue, Metrics(), LIMITS), queue, ConnectionLimits(20, 60, 60)) as (port, _),
        Client(f"http://127.0.0.1:{port}", retries=0) as client,
    ):
        labels_of(client, ["opens the connection"])
        before, shared["client"] = client._connection, client
        with multiprocessing.get_context("fork").Pool(2) as forks:
            parts = [[f"{part} {number}" for number in range(20)] for part in range(4)]
            assert forks.map(labels_of_shared, parts, chunksize=1) == parts
        assert labels_of(client, ["still open"]) == ["still open"]
        assert client._connection is before


def test_a_response_to_another_request_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = LabelQueue(Echo(), 20, 4)  # type: ignore[arg-type]
    with running(make_app(queue, Metrics(), LIMITS), queue, ConnectionLimits(20, 60, 60)) as (port, _):
        client = Client(f"http://127.0.0.1:{port}", retries=0)
        labels_of(client, ["a"])
        client._connection.request("GET", "/healthz")  # of a stranger who got hold of the socket
        monkeypatch.setattr(client._connection, "request", lambda *_: None)
        with pytest.raises(ServiceError, match="to another request"):
            client.tasks()
        client.close()


def test_an_idle_connection_that_the_service_has_closed_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a change of tasks, which is not tried again."""
    queue = LabelQueue(Echo(), 20, 4)  # type: ignore[arg-type]
    with (
        running(make_app(queue, Metrics(), LIMITS), queue, ConnectionLimits(20, 60, 60)) as (port, _),
        Client(f"http://127.0.0.1:{port}") as client,
    ):
        labels_of(client, ["a"])
        client._connection.sock.shutdown(socket.SHUT_RDWR)
        monkeypatch.setattr("tfew.service.client.IDLE_SECONDS", 0.01)
        time.sleep(0.02)
        with pytest.raises(ServiceError, match=r"cannot be changed over HTTP .*status 403"):
            client.remove_task("x")


@pytest.mark.parametrize("given", [{"items": 0}, {"items": -1}, {"retries": -1}, {"token": "a\nb"}, {"token": "ä"}])
def test_arguments_that_cannot_work(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be") as wrong:
        Client("http://127.0.0.1:9", **given)
    assert "token" not in given or given["token"] not in str(wrong.value), "it is a secret"
    Client("http://127.0.0.1:9", token="of a file\n")


def test_nobody_there() -> None:
    with Client("http://127.0.0.1:9", retries=1) as client, pytest.raises(ServiceError, match="status None"):
        client.health()
    with pytest.raises(ValueError, match="is not the address"):
        Client("127.0.0.1:8000")
