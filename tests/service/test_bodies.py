"""Invalid request bodies: each generated kind gets a 4xx with the reason, and the service continues."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.test_predict import trained, unlabelled
from tests.test_train import folder
from tfew.prediction.predictor import Predictor
from tfew.service.app import make_app
from tfew.service.limits import Limits
from tfew.service.metrics import Metrics
from tfew.service.queue import LabelQueue

JSON = {"content-type": "application/json"}
ROW = unlabelled("complaint")[0]
MANY = {"items": [{"task": "complaint", "row": ROW}, {"task": "complaint", "row": ROW}], "inputs": True}
# values by what each place does not take
WRONG = {
    ("items",): [None, 0, 1.5, True, "", "text", {}, {"0": 1}, [], [[]], [[1]], ["text"], [None], [3], [True]],
    ("items", 0): [None, 0, -1.5, False, "", "text", [], [1], {}, {"task": "complaint"}, {"row": ROW, "x": 1}],
    ("items", 1): [None, 0, -1.5, False, "", "text", [], [1], {}, {"task": "complaint"}, {"row": ROW, "x": 1}],
    ("items", 0, "task"): [None, 0, 2.5, True, [], {}, ["complaint"], "", "complaints", " complaint", "\0"],
    ("items", 1, "task"): [None, 0, 2.5, True, [], {}, ["complaint"], "", "complaints", "x" * 5000, "../x", "💥"],
    ("items", 0, "row"): [None, 0, 2.5, True, "", "text", [], [ROW], {}, {"no": "column"}, {"": ""}, {"TEXT": "x"}],
    ("items", 1, "row"): [None, 0, 2.5, True, "", "text", [], [ROW], {}, {"no": "column"}, {"\0": ""}, {"💥": "x"}],
    ("items", 0, "text"): ["", "text", 0, [], {}, True],  # beside a row
    ("items", 1, "text"): [0, 1.5, [], {}, False],
    ("inputs",): [None, "maybe", "", [], {}, 2, -1, 1.5, [True]],
    ("more",): [None, 0, "", [], {}],
    ("items", 0, "labels"): [None, 0, "", [], {}],
    (): [None, 0, 1.5, True, "", "text", [], {}, [MANY], [ROW], {"item": []}, {"ITEMS": []}, {"inputs": True}],
}  # fmt: skip
MISSING: list[tuple[Any, ...]] = [("items",), ("items", 0, "task"), ("items", 0, "row"), ("items", 0, "row", "text")]


def changed(path: tuple[Any, ...], value: Any) -> Any:
    """The good body with another value at this place; ellipsis: with none."""
    if not path:
        return value
    body = copy.deepcopy(MANY)
    at: Any = body
    for part in path[:-1]:
        at = at[part]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return body


def malformed() -> Iterator[bytes]:
    good = json.dumps(MANY)
    for path, values in WRONG.items():
        for value in values:
            yield json.dumps(changed(path, value)).encode()
    for path in MISSING:
        yield json.dumps(changed(path, ...)).encode()
    for end in range(0, len(good), 7):  # no beginning of a JSON object is one
        yield good[:end].encode()
    for place, sign in enumerate(good):  # every 3rd of the signs that hold it together, gone or twice
        if sign in '{}[]":,' and place % 3 == 0:
            for other in ("", sign * 2, "\x00", "'"):
                yield (good[:place] + other + good[place + 1 :]).encode()
    yield good.encode("cp037")
    for raw in (b"\xff", b"\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\x80"):
        yield good.replace("john", "@").encode().replace(b"@", raw)
    for number in ("NaN", "Infinity", "-Infinity", '"\\ud800"', '{"a": NaN}', '["\\udfff"]', '{"\\ud800": 1}'):
        yield good.replace(json.dumps(ROW["text"]), number).encode()
    for deep in ("[" * 10_000, "[" * 9_000 + "]" * 9_000, '{"items":' * 1_000, "9" * 9_000, '"' + "\\" * 9_001):
        yield deep.encode()
    yield from (b"a=1&b=2", b"<items/>", b"--x\r\n\r\n--x--", b"items: []", b"\x1f\x8b\x08\x00" * 9, b"%PDF-1.7", b"\0")
    yield from (good.encode() + more for more in (b"{}", b",", b"]", b"\0", b"x"))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    root = tmp_path_factory.mktemp("runs")
    folders = {family: folder(trained(root, family)) for family in ("complaint", "request")}
    queue = LabelQueue(Predictor.load(folders, "trainer=cpu"), 40, 16)
    limits = Limits(20, 20_000, 60.0, ("testserver",), None)
    with TestClient(make_app(queue, Metrics(), limits), raise_server_exceptions=False) as client:
        yield client
    queue.close()
    queue.join()


def test_each_malformed_body_is_told_why_and_leaves_it_serving(client: TestClient) -> None:
    good = client.post("/predict", json=MANY).json()["labels"]
    bodies = list(dict.fromkeys(malformed()))
    assert len(bodies) >= 290
    accepted = []
    for body in bodies:
        answer = client.post("/predict", content=body, headers=JSON)
        if not 400 <= answer.status_code < 500 or not isinstance(answer.json()["detail"], str):
            accepted.append((answer.status_code, body))
    assert not accepted
    assert client.post("/predict", json=MANY).json()["labels"] == good


def test_random_damage_is_never_the_services_own_error(client: TestClient) -> None:
    source, good = random.Random(0), json.dumps(MANY).encode()
    statuses = []
    for _ in range(300):
        body = bytearray(good)
        for _ in range(source.randint(1, 4)):
            at = source.randrange(len(body))
            body[at : at + source.randrange(4)] = source.randbytes(source.randrange(4))
        statuses.append(client.post("/predict", content=bytes(body), headers=JSON).status_code)
    assert all(status == 200 or 400 <= status < 500 for status in statuses)
    assert sum(status >= 400 for status in statuses) > 200


def test_damaged_tables_are_never_the_services_own_error(client: TestClient) -> None:
    source, good = random.Random(0), b"text,other\n" + b'"a, ""b""\nc",1\n' * 3
    for _ in range(100):
        body = bytearray(good)
        for _ in range(source.randint(1, 3)):
            at = source.randrange(len(body))
            body[at : at + source.randrange(3)] = source.choice([b'"', b"\0", b"\n", b",", b"\xff", b"", b";;;"])
        status = client.post("/table?task=complaint", content=bytes(body), headers={"content-type": "text/csv"})
        assert status.status_code == 200 or 400 <= status.status_code < 500, bytes(body)


def test_the_words_name_the_place(client: TestClient) -> None:
    for body, words in (
        ({"task": "complaint"}, "either text or row"),
        ({"items": [MANY["items"][0], {"text": 3}]}, "items.1.text: Input should be a valid string."),  # type: ignore[index]
        ({"task": "complaint", "row": ROW, "rows": 1}, "rows: Extra inputs are not permitted."),
        ({"task": "complaint", "row": {"text": "\ud800"}}, "A text holds half of a surrogate pair"),
    ):
        assert words in client.post("/predict", content=json.dumps(body), headers=JSON).json()["detail"]
    detail = client.post("/predict", content=b'{"task": }', headers=JSON).json()["detail"]
    assert detail == "The body is not valid JSON at its character 9: Expecting value."
