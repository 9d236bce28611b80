"""A finished run whose base model, a local folder, has changed since: its name cannot tell."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.hub.repositories import t5


def test_newer_weights_are_warned_of(tmp_path: Path, train_tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for name, data in t5().items():
        (base / name).write_bytes(data)
    given = (f"model.path={base}", "dataset.generator.eval=4", "steps=1")
    record = train_tiny(*given)
    train_tiny(*given)
    assert not [message for message in caplog.messages if "has changed since" in message]
    later = time.time() + 10
    os.utime(base / "model.safetensors", (later, later))
    assert train_tiny(*given) == record
    assert f"{base}/model.safetensors has changed since that run was finished: overwrite=true" in caplog.text
