"""Names of hosts, and metrics that cannot be written: one setting or file must not end the service."""

import logging
from pathlib import Path
from typing import Any

import pytest
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.testclient import TestClient

from tests.service.stubs import Recorder
from tfew.config import compose
from tfew.errors import UserError
from tfew.prediction.task_predictor import Labelled
from tfew.serve import _limits
from tfew.service.app import make_app
from tfew.service.limits import Limits, host_names
from tfew.service.metrics import Metrics
from tfew.service.queue import LabelQueue


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("[]", ()),
        ("null", ()),
        ("labels.example.org", ("labels.example.org",)),
        ("*.example.org", ("*.example.org",)),
        ("[a.org,10.0.0.7,'*']", ("a.org", "10.0.0.7", "*")),
        ("['[2001:db8::7]']", ("[2001:db8::7]",)),
    ],
)
def test_one_name_is_a_list_of_one(given: str, names: tuple[str, ...]) -> None:
    found = _limits(compose(f"allowed_hosts={given}", config_name="serve")).allowed_hosts
    assert found[-len(names) :] == names if names else "localhost" in found
    assert ("*" in found) == ("*" in names), "the check of the Host header stays on"
    TrustedHostMiddleware(None, found)  # type: ignore[arg-type]  # which asserts that it knows each pattern


@pytest.mark.parametrize("given", ["", "a b", "a.*", "*a.org", "http://a.org", "a.org:80", ["a", ""], ["a/b"], 3, {}])
def test_what_is_no_name(given: Any) -> None:
    with pytest.raises(UserError, match=r"is no list of names such as \[labels.example.org\]"):
        host_names(given)


def test_metrics_that_cannot_be_written_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics("0", tmp_path / "gone")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            metrics.publish()
    (said,) = caplog.messages
    assert "metrics of process 0 cannot be written" in said
    assert metrics.response().status_code == 200
    (tmp_path / "gone").mkdir()
    metrics.publish()
    assert b"tfew_rows" in metrics.response().body


class Forgetful(Recorder):
    """Its task is removed between the answer and the question for the inputs."""

    def prepare(self, rows: Any) -> list[Any]:
        return [row for _, _, row in rows]

    def answer(self, prepared: Any) -> list[Any]:
        return [Labelled("t", "a", 1.0, {"a": 1.0}) for _ in prepared]

    def inputs(self, prepared: Any) -> list[str]:
        raise UserError("The row is of the unknown task 't'.")


def test_inputs_of_a_task_that_was_removed_meanwhile() -> None:
    queue = LabelQueue(Forgetful(), 20, 4)  # type: ignore[arg-type]
    try:
        client = TestClient(make_app(queue, Metrics(), Limits(20, 20_000, 60.0, ("testserver",), None)))
        answer = client.post("/predict", json={"items": [{"task": "t", "text": "a"}], "inputs": True})
        assert (answer.status_code, answer.json()) == (422, {"detail": "The row is of the unknown task 't'."})
    finally:
        queue.close()
