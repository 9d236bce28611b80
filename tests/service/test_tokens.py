"""Permissions of tokens, and that clients without a token learn nothing."""

import hmac
import logging
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.service.stubs import Recorder
from tfew.config import compose
from tfew.errors import UserError
from tfew.serve import serve
from tfew.service.app import make_app
from tfew.service.limits import Limits
from tfew.service.metrics import Metrics
from tfew.service.queue import LabelQueue
from tfew.service.tokens import Tokens, load_tokens

READER, OWNER = "r" * 24, "o" * 24
TEXT = f"# who\nreader: {READER} predict\n\nowner: {OWNER} predict manage\n"


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    limits = Limits(20, 20_000, 60.0, ("testserver",), tmp_path)
    queue = LabelQueue(Recorder(), 40, 16)  # type: ignore[arg-type]
    return TestClient(make_app(queue, Metrics(), limits, Tokens.parse(TEXT, "here")), raise_server_exceptions=False)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


ROUTES = [
    ("POST", "/predict"), ("POST", "/table"), ("GET", "/tasks"), ("POST", "/tasks"), ("DELETE", "/tasks/t"),
    ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/nowhere"), ("POST", "/"), ("POST", "/healthz"),
    ("GET", "//healthz"), ("GET", "/healthz/"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("x" * 24),
        bearer(READER[:-1]),
        bearer(""),
        {"authorization": READER},
        {"authorization": "Basic " + READER},
    ],
)
def test_without_a_token_there_is_nothing(client: TestClient, method: str, path: str, headers: dict[str, str]) -> None:
    answer = client.request(method, "http://testserver" + path, headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_each_has_its_rights(client: TestClient) -> None:
    for path in ("/", "/healthz"):
        assert client.get(path).status_code == 200
    assert client.get("/tasks", headers=bearer(READER)).status_code == 200
    assert client.get("/tasks", headers={"authorization": f"bearer  {READER} "}).status_code == 200
    for method, path in (("POST", "/tasks"), ("DELETE", "/tasks/t"), ("PATCH", "/tasks")):
        assert client.request(method, path, headers=bearer(READER)).status_code == 403
        assert client.request(method, path, headers=bearer(OWNER)).status_code != 403
    item = {"task": "t", "text": "a"}
    assert client.post("/predict", json=item, headers=bearer(READER)).status_code == 422, "no label, but asked"


def test_every_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, compared = Tokens.parse(TEXT, "here"), []
    compare = hmac.compare_digest

    def spy(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    for token, name in ((READER, "reader"), (OWNER, "owner"), ("", None), ("ü\udcff" * 9, None)):
        owner = tokens.owner(token) if "\udcff" not in token else None
        assert (owner and owner.name) == name
    assert compared == [(32, 32)] * 6


def test_what_is_no_token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, message in (
        ("", "holds no token"), ("# only this\n", "holds no token"), ("a: short predict", "at least 16 characters"),
        (f"a {READER} predict", "line 1 is not"), (f"a: {READER}", "line 1 is not"),
        (f"a: {READER} predict root", "no right 'root'"), (f"a: {READER} predict\nb: {READER} manage", "line 2 has"),
        (f"a: {READER} predict\na: {OWNER} manage", "line 2 has"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message) as refused:
            Tokens.parse(text, "here")
        assert READER not in str(refused.value)
    with pytest.raises(UserError, match="cannot be read"):
        load_tokens(str(tmp_path / "none"))
    with pytest.raises(UserError, match="variable TFEW_TOKENS is not set"):
        load_tokens("env:TFEW_TOKENS")
    monkeypatch.setenv("TFEW_TOKENS", TEXT)
    assert load_tokens("env:TFEW_TOKENS").owner(OWNER) == Tokens.parse(TEXT, "").owner(OWNER)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", ""])
def test_other_machines_need_a_token(host: str) -> None:
    overrides = ["adapter=.", f"host='{host}'"]
    with pytest.raises(UserError, match=r"token=, or set insecure=true"):
        serve(compose(*overrides, config_name="serve"), overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["certificate=c.pem"], "both certificate= and key="),
        (["certificate=c.pem", "key=k.pem"], "is no file"),
        (["certificate=README.md", "key=README.md"], "do not match"),
        (["insecure=1"], "neither true nor false"),
        (["drain_seconds=0"], "drain_seconds=0"),
        (["max_connections=0"], "max_connections=0"),
    ],
)
def test_settings_of_reach(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        serve(compose("adapter=.", *overrides, config_name="serve"), overrides)


def test_who_was_refused_is_logged_without_the_token(
    client: TestClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = logging.getLogger("tfew.service.audit")
    monkeypatch.setattr(audit, "filters", [])  # a server that was started before limits how much is logged
    with caplog.at_level(logging.INFO, audit.name):
        given: Any = {**bearer("secret" * 4), "x-request-id": "mine-1"}
        assert client.get("/tasks", headers=given).headers["x-request-id"] == "mine-1"
        client.delete("/tasks/a/b", headers=bearer(OWNER))
    first, second = (record.getMessage() for record in caplog.records if record.name == audit.name)
    assert first.startswith("401 for GET of testclient, mine-1")
    assert second.startswith("remove task 'a/b' for owner, ")
    assert second.endswith(": 404")
    assert "secret" not in caplog.text
    assert OWNER not in caplog.text
