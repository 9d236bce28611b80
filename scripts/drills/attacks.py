"""Attacks on a running service, one function each; `scripts/drills/attack.py` makes a table of the outcomes."""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

MEGA = 2_500_000
PATIENCE_SECONDS = 12.0
JSON, CSV = {"content-type": "application/json"}, {"content-type": "text/csv"}


@dataclass(frozen=True)
class Target:
    """`attacker` and `honest`: headers with their tokens; `manage`: the folder of adapters, `run`: a good one in it."""

    port: int
    attacker: Mapping[str, str] = field(default_factory=dict)
    honest: Mapping[str, str] = field(default_factory=dict)
    manage: Path | None = None
    run: Path | None = None
    task: str = "t"

    def item(self) -> dict[str, Any]:
        return {"task": self.task, "text": "the lemon is bad"}

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = JSON, source: str = "127.0.0.1",
        honest: bool = False,
    ) -> str:  # fmt: skip
        """The status, or what was in its place. `source`: the address that the client has."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS, source_address=(source, 0))
        who = self.honest if honest else self.attacker
        try:
            connection.request(method, path, body, {**headers, **who})
            with connection.getresponse() as answer:
                answer.read()
                return str(answer.status)
        except TimeoutError:
            return f"no answer in {PATIENCE_SECONDS:g} s"
        except (OSError, HTTPException) as error:
            return f"disconnected ({type(error).__name__})"
        finally:
            connection.close()

    def post(self, path: str, body: bytes, headers: Mapping[str, str] = JSON) -> str:
        return self.ask("POST", path, body, headers)

    def raw(self, *pieces: bytes, seconds: float = PATIENCE_SECONDS, pause: float = 0.0) -> str:
        """Of bytes as they are: the status, `closed`, or `open` where neither came in time."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as client:
            try:
                for piece in pieces:
                    client.sendall(piece)
                    time.sleep(pause)
                answer = client.recv(4096)
            except TimeoutError:
                return f"open after {seconds:g} s"
            except OSError:
                return "closed"
        return answer.split(b" ")[1].decode() if answer.startswith(b"HTTP/1.1 ") else "closed"

    def waiting(self) -> int:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", "/healthz")
            with connection.getresponse() as answer:
                return int(json.load(answer)["waiting_rows"])
        finally:
            connection.close()


def predict(body: bytes) -> Callable[[Target], str]:
    return lambda target: target.post("/predict", body.replace(b"TASK", target.task.encode()))


def many_items(target: Target) -> str:
    return target.post("/predict", json.dumps({"items": [target.item()] * 300}).encode())


def huge_body(target: Target) -> str:
    return target.post("/predict", b" " * 9_000_000)


def slow_body(target: Target) -> str:
    head = _head(target, "POST", "/predict", "content-length: 100\r\ncontent-type: application/json\r\n")
    return target.raw(head, *[b" "] * 40, pause=0.2)


def slow_headers(target: Target) -> str:
    return target.raw(b"GET /healthz HTTP/1.1\r\n", *[b"a: b\r\n"] * 70, pause=0.2, seconds=20)


def endless_header(target: Target) -> str:
    return target.raw(b"GET / HTTP/1.1\r\na: ", *[b"x" * 65536] * 100)


def idle_connections(target: Target) -> str:
    """More than there may be, from one address; then somebody else asks."""
    idle: list[socket.socket] = []
    try:
        for _ in range(1000):
            idle.append(socket.create_connection(("127.0.0.1", target.port), timeout=2))
    except OSError:
        pass
    try:
        return target.ask("POST", "/predict", json.dumps(target.item()).encode(), source="127.0.0.2", honest=True)
    finally:
        for client in idle:
            client.close()


def untaken_answer(target: Target) -> str:
    """Answers that are asked for and not read: whether the connection is cut."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.settimeout(PATIENCE_SECONDS)
        client.connect(("127.0.0.1", target.port))
        end = time.monotonic() + PATIENCE_SECONDS
        try:
            while time.monotonic() < end:
                client.sendall(_head(target, "GET", "/", "") * 50)
        except TimeoutError:
            return f"open after {PATIENCE_SECONDS:g} s"
        except OSError:
            return "closed"
    return "open"


def unknown_table(target: Target) -> str:
    return target.post("/table?task=nobody", b"text\n" + b"a\n" * 500_000, CSV)


def long_table(target: Target) -> str:
    return target.post(f"/table?task={target.task}", b"text\n" + b"a\n" * 1_900_000, CSV)


def left_table(target: Target) -> str:
    """A table whose client goes at once: whether its rows are still labelled ten seconds later."""
    body = b"text\n" + b"the lemon is bad and the river is long\n" * 40_000
    head = _head(
        target, "POST", f"/table?task={target.task}", f"content-length: {len(body)}\r\ncontent-type: text/csv\r\n"
    )
    with socket.create_connection(("127.0.0.1", target.port), timeout=PATIENCE_SECONDS) as client:
        client.sendall(head + body)
        time.sleep(2)
    time.sleep(8)
    return "still labelled 8 s later" if target.waiting() else "given up"


def crowd(target: Target) -> str:
    """Eight requests of 256 items by one client, each asked again; another asks for one row meanwhile."""
    body = json.dumps({"items": [target.item()] * 256}).encode()
    head = _head(target, "POST", "/predict", f"content-length: {len(body)}\r\ncontent-type: application/json\r\n")
    clients = [socket.create_connection(("127.0.0.1", target.port), timeout=5) for _ in range(8)]
    try:
        for client in clients:
            client.sendall(head + body)
        time.sleep(1)
        return target.ask("POST", "/predict", json.dumps(target.item()).encode(), source="127.0.0.2", honest=True)
    finally:
        for client in clients:
            client.close()


def other_host(target: Target) -> str:
    return target.ask("GET", "/tasks", headers={"host": "evil.example"})


def cross_site(target: Target) -> str:
    return target.post("/predict", json.dumps(target.item()).encode(), {"content-type": "text/plain"})


def smuggled(target: Target) -> str:
    head = _head(target, "POST", "/predict", "content-length: 3\r\ntransfer-encoding: chunked\r\ncontent-length: 9\r\n")
    return target.raw(head + b"0\r\n\r\nGET /tasks HTTP/1.1\r\n\r\n")


def no_http(target: Target) -> str:
    return sorted({target.raw(bytes([number % 256]) * 50 + b"\r\n\r\n", seconds=2) for number in range(200)})[0]


def no_token(target: Target) -> str:
    return Target(target.port).ask("GET", "/tasks")


def no_right(target: Target) -> str:
    return target.ask("DELETE", f"/tasks/{target.task}")


def outside(target: Target) -> str:
    return _add(target, "../../etc")


def nul(target: Target) -> str:
    return _add(target, "a\0b")


def long_name(target: Target) -> str:
    return _add(target, "x" * 300)


def _sent(name: str, change: Callable[[Path], None]) -> Callable[[Target], str]:
    """A copy of the good run, changed, and then added."""

    def attack(target: Target) -> str:
        assert target.manage is not None
        assert target.run is not None
        folder = target.manage / f"sent {name}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(target.run, folder)
        change(folder)
        return _add(target, folder.name)

    return attack


def _fifo(folder: Path) -> None:
    (folder / "adapter.json").unlink()
    os.mkfifo(folder / "adapter.json")


def _zero(folder: Path) -> None:
    (folder / "adapter.json").unlink()
    (folder / "adapter.json").symlink_to("/dev/zero")


def _described(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    description = json.loads((folder / "adapter.json").read_text())
    del description["sha256"]
    change(description)
    (folder / "adapter.json").write_text(json.dumps(description))


def _nan(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "adapter.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(path).items()}, path)
    _described(folder, lambda description: description.pop("weights_sha256"))


def _other_base(folder: Path) -> None:
    _described(folder, lambda description: description.update(base={"name": "evil", "path": "evil/model"}))


def _sparse(folder: Path) -> None:
    """A tensor of 200 GB that takes no place on the disk."""
    size = 200 * 10**9
    header = json.dumps({"a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    path = folder / "adapter.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + size)
    _described(folder, lambda description: description.pop("weights_sha256"))


def _add(target: Target, folder: str) -> str:
    body = json.dumps({"name": "sent", "folder": folder}).encode()
    status = target.ask("POST", "/tasks", body, honest=True)
    if status == "201":
        target.ask("DELETE", "/tasks/sent", honest=True)
    return status


def _head(target: Target, method: str, path: str, more: str) -> bytes:
    given = "".join(f"{name}: {value}\r\n" for name, value in target.attacker.items())
    return f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{given}{more}\r\n".encode()


@dataclass(frozen=True)
class Kind:
    """`good`: how the outcome begins where the service holds; `limit` and `test`: what bounds it, and what tests that.
    `whole`: only against a real service, with a model, tokens and a managed folder."""

    name: str
    attack: Callable[[Target], str]
    good: tuple[str, ...]
    limit: str
    test: str
    whole: bool = False


BODIES, CONNECTIONS, OPERATIONS = "test_json_body", "test_connections", "test_operations"
SIGNS = "400 signs an item"
KINDS = (
    Kind("2.5 million empty items", predict(b'{"items":[' + b"{}," * MEGA + b"{}]}"), ("413",), SIGNS, BODIES),
    Kind("2.5 million numbers", predict(b"[" + b"1," * MEGA + b"1]"), ("413",), SIGNS, BODIES),
    Kind("2.5 million lists", predict(b'{"row":{"x":[' + b"[]," * MEGA + b"[]]}}"), ("413",), SIGNS, BODIES),
    Kind("7 million brackets", predict(b"[" * 7_000_000), ("422",), "64 deep", BODIES),
    Kind("a million keys", predict(b'{"a":1' + b',"a":1' * 1_000_000 + b"}"), ("413",), SIGNS, BODIES),
    Kind("300 items", many_items, ("413",), "max_items", BODIES),
    Kind("half a surrogate pair", predict(b'{"task":"TASK","text":"\\ud800"}'), ("422",), "UTF-8", BODIES),
    Kind("infinity", predict(b'{"task":"TASK","row":{"text":1e999}}'), ("422",), "JSON's numbers", BODIES),
    Kind("9 MB", huge_body, ("413",), "max_body_mb", "test_app"),
    Kind("a body that drips", slow_body, ("408", "closed"), "timeout_seconds", "test_app"),
    Kind("headers that drip", slow_headers, ("closed",), "10 s for headers", CONNECTIONS),
    Kind("a header without end", endless_header, ("400", "431", "closed"), "64 kB of headers", CONNECTIONS),
    Kind("1,000 idle connections", idle_connections, ("200", "422"), "max_connections", CONNECTIONS),
    Kind("answers that are not taken", untaken_answer, ("closed",), "timeout_seconds", CONNECTIONS),
    Kind("a table of no task", unknown_table, ("404",), "before it is read", OPERATIONS),
    Kind("1.9 million rows", long_table, ("413",), "max_table_rows", OPERATIONS),
    Kind("another Host", other_host, ("400",), "allowed_hosts", "test_app"),
    Kind("another site's form", cross_site, ("422",), "content-type", "test_app"),
    Kind("two lengths", smuggled, ("400", "closed"), "the HTTP parser", "this drill"),
    Kind("no HTTP", no_http, ("400",), "the HTTP parser; 10 lines of log in 10 s", "test_log_limit"),
    Kind("a table whose client goes", left_table, ("given up",), "the connection", OPERATIONS, True),
    Kind("8 times 256 items by one client", crowd, ("200",), "clients take turns", "test_queue", True),
    Kind("no token", no_token, ("401",), "token", "test_tokens", True),
    Kind("a token without the right", no_right, ("403",), "rights of a token", "test_tokens", True),
    Kind("a folder outside manage=", outside, ("422",), "manage", "test_app", True),
    Kind("NUL in a folder's name", nul, ("422",), "names of files", OPERATIONS, True),
    Kind("a name of 300 characters", long_name, ("422",), "names of files", OPERATIONS, True),
    Kind("a FIFO as adapter.json", _sent("fifo", _fifo), ("422",), "regular files", "test_hostile_adapter", True),
    Kind("/dev/zero as adapter.json", _sent("zero", _zero), ("422",), "regular files", "test_hostile_adapter", True),
    Kind("weights of 200 GB", _sent("sparse", _sparse), ("422",), "shapes of the model", "test_hostile_adapter", True),
    Kind("NaN as weights", _sent("nan", _nan), ("422",), "finite weights", "test_hostile_adapter", True),
    Kind("an adapter of another model", _sent("base", _other_base), ("422",), "the service's base", OPERATIONS, True),
)  # fmt: skip
