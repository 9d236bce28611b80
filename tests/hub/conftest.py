"""A stand-in for the Hub, and fixtures that make this process use it: endpoint, empty cache, no offline mode."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub.repositories import t5
from tests.hub.shell import Shell
from tests.hub.stand_in import StandIn
from tfew.config import compose
from tfew.files import hub as tfew_hub
from tfew.files import hub_files

DEMO = ("name=demo_commits", "dataset=mini/commits", "few_shot=draw", "model=tiny")
SMALL = (*DEMO, "steps=2", "trainer=cpu", "dataset.generator.eval=8")  # of a command
TRAINED: list[Any] = []


@pytest.fixture
def server() -> Iterator[StandIn]:
    server = StandIn()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "hf_home"


@pytest.fixture
def shell(server: StandIn, home: Path, tmp_path: Path) -> Shell:
    return Shell(server, home, tmp_path)


@pytest.fixture
def hub(server: StandIn, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """What a process has that starts with HF_ENDPOINT and HF_HOME: the libraries read them when they are imported."""
    import datasets.config
    from huggingface_hub import constants, hf_api

    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for module in (constants, datasets.config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(hf_api.api, "endpoint", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    monkeypatch.setattr(tfew_hub, "WAITS_SECONDS", (0.01, 0.01))
    new_process()
    yield server
    new_process()


def new_process() -> None:
    """Forgets what a process asks the Hub only once."""
    tfew_hub.reachable.cache_clear()
    os.environ.pop(tfew_hub.SET_HERE, None)
    hub_files._commits.clear()
    hub_files.file_sizes.cache_clear()


@pytest.fixture
def trained(hub: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The record of a run on `me/t0`, trained long enough to have left where it started; not to be changed.

    It is trained once: equal repositories have equal commits.
    """
    hub.add("models", "me/t0", t5())
    if not TRAINED:
        from tfew.train import train

        settings = ("steps=12", "optimizer.lr=0.1", "dataset.generator.eval=40", "trainer=cpu", "model.path=me/t0")
        TRAINED.append(train(compose(*DEMO, *settings, f"runs={tmp_path_factory.mktemp('trained')}")))
        new_process()
    return TRAINED[0]


@pytest.fixture
def disconnect(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on the Hub accepts connections and cuts them; what this process knows of it is forgotten."""
    from tests.hub.stand_in import Fault

    def cut() -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # put back after the test
        hub.faults.append(Fault("", "drop"))
        new_process()

    return cut


@pytest.fixture
def load() -> Callable[..., Any]:
    """The model of a repository, as the commands load it."""

    def load(id: str, revision: str = "main") -> Any:
        import torch

        from tfew.models.backbone import load_model

        return load_model(id, revision, torch.float32)

    return load
