"""Rows that the service is unsure of: thresholds of a task, of a request and of a row; sets; the answer of /tasks."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.test_predict import trained, unlabelled
from tests.test_train import folder
from tfew.decisions.decision import Decision
from tfew.prediction.predictor import Predictor
from tfew.service.app import make_app
from tfew.service.limits import Limits
from tfew.service.metrics import Metrics
from tfew.service.queue import LabelQueue

ROWS = [row["text"] for row in unlabelled("complaint")[:12]]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    run = folder(trained(tmp_path_factory.mktemp("runs"), "complaint", "steps=4"))
    return Predictor.load({"complaint": run}, "trainer=cpu", coverage=0.5, sets=0.9)


@pytest.fixture
def client(predictor: Predictor) -> Iterator[TestClient]:
    queue = LabelQueue(predictor, max_waiting=40, batch_rows=16)
    yield TestClient(make_app(queue, Metrics(), Limits(20, 20_000, 60.0, ("testserver",), None)))
    queue.close()
    queue.join()


def asked(client: TestClient, **changes: Any) -> list[dict[str, Any]]:
    body = {"items": [{"text": text} for text in ROWS], **changes}
    found: list[dict[str, Any]] = client.post("/predict", json=body).json()["labels"]
    return found


def test_the_tasks_own_threshold(client: TestClient, predictor: Predictor) -> None:
    (described,) = client.get("/tasks").json()
    assert described["sets"] == 0.9
    assert described["threshold"] == predictor.tasks["complaint"].decision.threshold
    points = described["answering"]
    assert points[0]["coverage"] == 1
    assert [point["coverage"] for point in points] == sorted((point["coverage"] for point in points), reverse=True)
    half = next(point for point in points if point["threshold"] == pytest.approx(described["threshold"], abs=1e-6))
    assert 0.5 <= half["coverage"] < 0.6
    found = asked(client)
    assert {row["abstained"] for row in found} == {True, False}
    for row in found:
        assert row["abstained"] == (row["probability"] < described["threshold"])
        assert row["label"] == (None if row["abstained"] else row["guess"])
        assert row["probabilities"][row["guess"]] == row["probability"]
        assert row["labels"][0] == row["guess"]


def test_a_threshold_of_the_request_or_of_a_row(client: TestClient) -> None:
    assert not any(row["abstained"] for row in asked(client, threshold=0))
    assert all(row["abstained"] for row in asked(client, threshold=1))
    items = [{"text": ROWS[0], "threshold": 0}, {"text": ROWS[0]}]
    one, other = asked(client, items=items, threshold=1)
    assert (one["abstained"], other["abstained"]) == (False, True)
    assert client.post("/predict", json={"text": ROWS[0], "threshold": 1}).json()["labels"][0]["label"] is None
    refused = client.post("/predict", json={"text": ROWS[0], "threshold": 80})
    assert (refused.status_code, "threshold" in refused.json()["detail"]) == (422, True)


def test_a_table(client: TestClient, predictor: Predictor) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([["text", "set"], *([text, "own"] for text in ROWS)])
    kind = {"content-type": "text/csv"}
    expected = predictor(ROWS)
    for query, threshold in (("", None), ("?threshold=1", 1.0)):
        answer = client.post(f"/table{query}", content=text.getvalue(), headers=kind)
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        wanted = [found if threshold is None else found.with_threshold(threshold) for found in expected]
        assert [row["label"] for row in rows] == [found.label or "" for found in wanted]
        assert [json.loads(row["predicted_set"]) for row in rows] == [list(found.labels or ()) for found in wanted]
    assert client.post("/table?threshold=2", content=text.getvalue(), headers=kind).status_code == 422


def test_without_held_out_rows_nothing_is_said_of_them(
    client: TestClient, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = predictor.tasks["complaint"]
    monkeypatch.setattr(task, "decision", Decision())
    monkeypatch.setattr(task, "answering", None)
    (described,) = client.get("/tasks").json()
    assert (described["threshold"], described["sets"], described["answering"]) == (None, None, None)
    assert all(row["labels"] is None and row["label"] == row["guess"] for row in asked(client))


def test_a_service_starts_with_a_threshold_that_makes_sense(tmp_path: Path) -> None:
    from tfew.config import compose
    from tfew.errors import UserError
    from tfew.serve import serve

    for given, message in (("threshold=7", "threshold=7 is not a share"), ("risk=2", "risk=2 is not a share")):
        with pytest.raises(UserError, match=message):
            serve(compose(f"adapter={tmp_path}", given, config_name="serve"), [f"adapter={tmp_path}", given])
