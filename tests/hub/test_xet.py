"""Repositories in Xet storage, with hf_xet installed: fallback to HTTP if that storage fails.

The stand-in has no such storage: it announces one, as the Hub does, at an address where nothing, or something else,
answers. hf_xet starts its own threads, so tests that reach it run in separate processes.
"""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.hub.conftest import SMALL
from tests.hub.repositories import parquet, rows, t5
from tests.hub.shell import Shell
from tests.hub.stand_in import Fault, StandIn
from tests.hub.test_models import fetched
from tfew.errors import UserError
from tfew.files.hub_xet import OF_XET, or_over_http, xet_trouble
from tfew.tables.hub_rows import load_from_hub

NOWHERE = "http://127.0.0.1:9"
SAID = "Xet storage cannot be loaded"


@pytest.fixture
def with_xet(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    return hub


def test_a_hub_that_does_not_say_the_way_there(with_xet: StandIn, load: Callable[..., Any], caplog: Any) -> None:
    """One file is asked for in vain; those after it are not."""
    weights = t5("sharded")
    with_xet.add("models", "me/t0", weights, xet="")
    with caplog.at_level(logging.INFO, logger="tfew"):
        load("me/t0")
    assert caplog.text.count(f"{SAID} (the Hub answers 404 when asked for the way there); over HTTP instead") == 1
    assert sum("xet-read-token" in line for line in with_xet.requests) == 1
    assert fetched(with_xet).count("content") == sum(name.endswith(".safetensors") for name in weights) > 1


def test_data(with_xet: StandIn, caplog: Any) -> None:
    with_xet.add("datasets", "me/films", {"data/train-0.parquet": parquet(rows())}, xet="")
    source = {"id": "me/films", "config": None, "revision": "main", "train": "train"}
    with caplog.at_level(logging.INFO, logger="tfew"):
        assert len(load_from_hub(source, "train", "")) == 16
    assert SAID in caplog.text


def test_what_is_wrong_with_the_files_themselves_is_said(with_xet: StandIn, load: Callable[..., Any]) -> None:
    with_xet.add("models", "me/t0", t5(), xet="")
    with_xet.faults.append(Fault("GET /content/", 404))
    with pytest.raises(UserError, match=r"model.safetensors of me/t0 cannot be loaded: the Hub answers 404"):
        load("me/t0")


def test_other_trouble_is_not_taken_for_it(with_xet: StandIn) -> None:
    """And none is where Xet storage is not used."""
    from huggingface_hub import constants

    calls: list[int] = []

    def fail(error: Exception) -> None:
        calls.append(1)
        raise error

    for error in (RuntimeError("out of memory"), ConnectionError("Couldn't reach 'me/films' on the Hub")):
        with pytest.raises(type(error), match=str(error)):
            or_over_http(lambda error=error: fail(error), "it")  # type: ignore[misc]
    assert len(calls) == 2
    theirs = RuntimeError("Task error: File reconstruction error: CAS Client Error: Request middleware error")
    assert xet_trouble(theirs) == str(theirs)
    constants.HF_HUB_DISABLE_XET = True  # put back by the fixture
    assert OF_XET.search(str(theirs))
    assert xet_trouble(theirs) is None


@pytest.mark.drill
@pytest.mark.parametrize("xet", [NOWHERE, "itself"], ids=["nothing answers", "it refuses"])
def test_storage_that_does_not_answer_or_refuses(xet: str, shell: Shell) -> None:
    shell.server.add("models", "me/t0", t5(), xet=shell.server.url if xet == "itself" else xet)
    written = shell("evaluate", *SMALL, "model.path=me/t0", HF_XET_CLIENT_RETRY_MAX_ATTEMPTS="0")
    assert SAID in written
    assert "record: " in written
    written = shell("evaluate", *SMALL, "model.path=me/t0", f"runs={shell.cwd}/again", HF_HUB_DISABLE_XET="1")
    assert SAID not in written


@pytest.mark.drill
def test_an_adapter_goes_up_where_xet_storage_cannot_be_had(shell: Shell) -> None:
    """The Hub's own uploads are through it, also into a repository that has none of it."""
    shell.server.add("models", "me/t0", t5())
    shell("train", *SMALL, "model.path=me/t0")
    given = (f"adapter={shell.run()}", "to=hub", "repo=me/vectors")
    assert SAID in shell("convert", *given, HF_TOKEN="hf_good", HF_XET_CLIENT_RETRY_MAX_ATTEMPTS="0")
    repository = shell.server.repositories["models", "me/vectors"]
    assert repository.files("main")["adapter.safetensors"] == (shell.run() / "adapter.safetensors").read_bytes()
