"""How long the Hub is waited for."""

import inspect
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from tfew.files import hub


@pytest.mark.parametrize(("more", "answers"), [(-0.1, True), (0.1, False)])
def test_longest_answer(more: float, answers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hub that takes so long to answer is reachable, or is not."""

    def connect(address: Any, timeout: float) -> Any:
        if hub.CONNECT_TIMEOUT_SECONDS + more > timeout:
            raise TimeoutError("timed out")
        return SimpleNamespace(close=lambda: None)

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(hub, "_go_offline", lambda: None)
    assert inspect.unwrap(hub.reachable)() is answers
