"""Connections that never ask, ask slowly, do not take their answer, or are too many."""

import resource
import socket
import ssl
import subprocess
import threading
import time
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import pytest

from tests.service.running import running, wait_for
from tests.service.stubs import Recorder
from tfew.service import connections as connections_module
from tfew.service.app import make_app
from tfew.service.connections import ConnectionLimits, connections_that_fit
from tfew.service.limits import Limits
from tfew.service.metrics import Metrics
from tfew.service.queue import LabelQueue

LIMITS = Limits(20, 10**7, 60.0, ("127.0.0.1",), None)


def queue() -> LabelQueue:
    return LabelQueue(Recorder(), 100, 16)  # type: ignore[arg-type]


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def status(port: int) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/healthz")
        with connection.getresponse() as answer:
            return answer.status
    finally:
        connection.close()


def is_closed(client: socket.socket) -> bool:
    """By the server; its own end is closed with it."""
    with client:
        try:
            while client.recv(65536):
                pass
            return True
        except ConnectionResetError:
            return True


def test_what_never_asks_or_asks_slowly_is_closed() -> None:
    labelling = queue()
    with running(make_app(labelling, Metrics(), LIMITS), labelling, ConnectionLimits(50, 0.5, 60)) as (port, found):
        silent, dripping, behind = connected(port), connected(port), connected(port)
        behind.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert b"200 OK" in behind.recv(65536)
        behind.sendall(b"GET /heal")
        began = time.monotonic()
        while len(found.open) > 0:
            try:
                dripping.sendall(b"G")
            except OSError:
                break
            assert time.monotonic() - began < 60
            time.sleep(0.05)
        wait_for(lambda: not found.open)
        assert all(map(is_closed, (silent, dripping, behind)))
        assert status(port) == 200


def test_an_answer_that_is_not_taken_is_given_up() -> None:
    async def endless(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
        for _ in range(2000):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})  # type: ignore[operator]

    labelling = queue()
    with running(endless, labelling, ConnectionLimits(50, 60, 0.5), lifespan="off") as (port, found):
        client = connected(port)
        client.sendall(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        wait_for(lambda: len(found.open) == 1)
        wait_for(lambda: not found.open)
        assert found.closed_idle == 1
        client.close()


def test_answers_to_requests_one_behind_the_other_that_are_not_taken() -> None:
    labelling = queue()
    with running(make_app(labelling, Metrics(), LIMITS), labelling, ConnectionLimits(50, 60, 0.5)) as (port, found):
        client = connected(port)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sender = threading.Thread(target=until_cut, args=(client, b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 50))
        sender.start()
        sender.join(60)
        client.close()
        assert not sender.is_alive()
        assert found.closed_idle == 1


def until_cut(client: socket.socket, data: bytes) -> None:
    try:
        while True:
            client.sendall(data)
    except ConnectionError:
        pass


def test_the_one_that_is_idle_the_longest_makes_room_and_a_request_does_not() -> None:
    recorder = Recorder(go=False)
    labelling = LabelQueue(recorder, 100, 16)  # type: ignore[arg-type]
    with running(make_app(labelling, Metrics(), LIMITS), labelling, ConnectionLimits(8, 60, 60)) as (port, found):
        working = HTTPConnection("127.0.0.1", port, timeout=60)
        working.request("POST", "/predict", b'{"text": "a"}', {"content-type": "application/json"})
        wait_for(lambda: recorder.batches)
        idle = [connected(port) for _ in range(30)]
        for _ in range(5):
            assert status(port) == 200
        wait_for(lambda: len(found.open) <= 8)
        assert is_closed(idle[0])
        recorder.go.set()
        with working.getresponse() as answer:
            assert answer.status == 422, "it had its answer: no label"
        working.close()
        for client in idle:
            client.close()


def test_there_are_fewer_connections_than_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = [100, 300]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limit))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limit.__setitem__(slice(None), new))
    assert connections_that_fit(50) == 50
    assert limit == [50 + connections_module.KEPT_DESCRIPTORS, 300]
    assert connections_that_fit(1000) == 300 - connections_module.KEPT_DESCRIPTORS
    assert limit == [300, 300]


def test_https(tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1"
    made = [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    labelling = queue()
    files = {"ssl_certfile": certificate, "ssl_keyfile": key}
    app = make_app(labelling, Metrics(), LIMITS)
    with running(app, labelling, ConnectionLimits(50, 60, 60), **files) as (port, _):
        trusting = ssl.create_default_context(cafile=str(certificate))
        connection = HTTPSConnection("127.0.0.1", port, timeout=60, context=trusting)
        connection.request("GET", "/healthz")
        with connection.getresponse() as answer:
            assert answer.status == 200
        connection.close()


def test_one_address_that_takes_all_connections_takes_none_of_anothers() -> None:
    labelling = queue()
    with running(make_app(labelling, Metrics(), LIMITS), labelling, ConnectionLimits(5, 60, 60)) as (port, found):
        other = socket.create_connection(("127.0.0.1", port), timeout=60, source_address=("127.0.0.2", 0))
        wait_for(lambda: len(found.open) == 1)
        crowd = [connected(port) for _ in range(20)]
        wait_for(lambda: found.closed_idle == 16)
        other.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        assert b"200 OK" in other.recv(65536)
        for client in (other, *crowd):
            client.close()
