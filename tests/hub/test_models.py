"""Models on a Hub: every format of weights, the requests that are made, and messages if it fails."""

import errno
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.hub.conftest import new_process
from tests.hub.repositories import t5, tokenizer_files
from tests.hub.stand_in import Fault, StandIn
from tfew.errors import UserError
from tfew.files import hub as tfew_hub
from tfew.models.backbone import load_tokenizer

Load = Callable[..., Any]
SMALL_FILES = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}


def fetched(hub: StandIn) -> list[str]:
    """Names of the files, and "content" for what came from the content host."""
    gets = [line.split()[1] for line in hub.requests if line.startswith("GET ") and "/api/" not in line]
    return [path.split("/")[1] if path.startswith("/content/") else path.rpartition("/")[2] for path in gets]


@pytest.mark.parametrize(("form", "files"), [("safetensors", 1), ("sharded", 3), ("bin", 1), ("sharded_bin", 3)])
def test_weights_in_every_form_are_fetched_once(form: str, files: int, hub: StandIn, load: Load) -> None:
    """And nothing else: for weights that are pickles transformers would take a bot's safetensors as well."""
    made = t5(form)
    weights = [name for name in made if name.endswith((".bin", ".safetensors"))]
    assert (len(weights) == 1) == (files == 1)
    others = {"tf_model.h5": b"another form", "README.md": b"card", "flax_model.msgpack": b"x"}
    repository = hub.add("models", "me/t0", {**made, **others})
    if form.endswith("bin"):
        repository.pull_request(t5(form.replace("sharded_bin", "sharded").replace("bin", "safetensors")))
    model = load("me/t0")
    assert torch.equal(model.shared.weight, load("me/t0").shared.weight)
    _wait_for_threads()
    assert fetched(hub).count("content") == len(weights)
    assert not any(word in line for line in hub.requests for word in ("discussions", "refs/pr", "tf_model", "flax"))
    text = load_tokenizer("me/t0", "main")("good")["input_ids"]
    assert text[-1] == 1 or len(text) > 1


def _wait_for_threads() -> None:
    """Those that a process would wait for at its end: in such a one transformers takes the safetensors of others."""
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            thread.join()


def test_both_forms_are_there(hub: StandIn, load: Load) -> None:
    hub.add("models", "me/t0", {**t5("bin"), **t5("safetensors")})
    load("me/t0")
    assert not any("pytorch_model.bin" in line for line in hub.requests)


def test_files_in_xet_storage_come_over_http_where_that_is_off(hub: StandIn, load: Load) -> None:
    """HF_HUB_DISABLE_XET, as in all tests but test_xet.py's: the stand-in has no such storage."""
    hub.add("models", "me/t0", t5(), xet="")
    load("me/t0")
    assert fetched(hub).count("content") == 1


def test_a_second_process_fetches_nothing(hub: StandIn, load: Load) -> None:
    repository = hub.add("models", "me/t0", t5())
    load("me/t0")
    new_process()
    hub.requests.clear()
    load("me/t0")
    assert fetched(hub) == []
    new_process()
    hub.requests.clear()
    load("me/t0", repository.head)  # of a commit in full only the list of files is asked for
    assert [line for line in hub.requests if "/api/models" in line] == [
        f"GET /api/models/me/t0/revision/{repository.head}?blobs=true"
    ]


def test_a_download_is_shown(hub: StandIn, load: Load, caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much comes is said, and the library's bar is not switched off while the weights come."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import are_progress_bars_disabled

    off: list[bool] = []
    real = file_download.http_get
    monkeypatch.setattr(
        file_download, "http_get", lambda *a, **k: (off.append(are_progress_bars_disabled()), real(*a, **k))
    )
    hub.add("models", "me/t0", t5())
    with caplog.at_level(logging.INFO, logger="tfew"):
        load("me/t0")
    assert off
    assert not any(off)
    assert "Downloading me/t0, " in caplog.text


def test_revisions(hub: StandIn, load: Load) -> None:
    repository = hub.add("models", "me/t0", t5())
    first = repository.head
    second = repository.commit(t5(seed=1))
    old, new = load("me/t0", first), load("me/t0")
    assert not torch.equal(old.shared.weight, new.shared.weight)
    assert torch.equal(load("me/t0", second).shared.weight, new.shared.weight)
    with pytest.raises(UserError, match=r"me/t0 \(revision v9\) cannot be loaded: there is no such revision"):
        load("me/t0", "v9")


def test_a_moved_branch_is_found_without_the_hub_as_it_was(hub: StandIn, load: Load, disconnect: Any) -> None:
    repository = hub.add("models", "me/t0", t5())
    old = load("me/t0")
    repository.commit(t5(seed=1))
    disconnect()
    assert torch.equal(load("me/t0").shared.weight, old.shared.weight)


def test_connections_that_are_cut_with_a_full_cache(hub: StandIn, load: Load, disconnect: Any, caplog: Any) -> None:
    hub.add("models", "me/t0", t5())
    load("me/t0")
    disconnect()
    with caplog.at_level(logging.INFO, logger="tfew"):
        load("me/t0")
    assert "cannot be reached" in caplog.text
    assert caplog.text.count("cannot be reached") == 1


def test_connections_that_are_cut_with_an_empty_cache(hub: StandIn, load: Load, disconnect: Any) -> None:
    disconnect()
    with pytest.raises(
        UserError, match=r"model.path=me/t0 cannot be loaded: .*not in the Hub's cache here, and the Hub"
    ):
        load("me/t0")


def test_a_download_that_was_not_finished(hub: StandIn, load: Load, disconnect: Any) -> None:
    hub.add("models", "me/t0", t5("sharded"))
    hub.faults.append(Fault("GET /content/", 404))
    with pytest.raises(UserError):
        load("me/t0")
    disconnect()
    with pytest.raises(UserError, match=r"The cached copy of me/t0 lacks weights .*run the same command again"):
        load("me/t0")


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("path", ["HEAD /me/t0/resolve", "GET /content/", "GET /api/models/me/t0"])
def test_a_busy_hub_is_asked_again(path: str, status: int, hub: StandIn, load: Load, caplog: Any) -> None:
    hub.add("models", "me/t0", t5())
    hub.faults.append(Fault(path, status, times=1))
    load("me/t0")


def test_a_download_that_is_cut_goes_on_where_it_was(hub: StandIn, load: Load) -> None:
    hub.add("models", "me/t0", t5())
    hub.faults.append(Fault("GET /content/", "cut", times=1))
    load("me/t0")
    assert fetched(hub).count("content") == 2


def test_a_download_that_is_always_cut(hub: StandIn, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would say: make sure you don't have a local directory with the same name."""
    import huggingface_hub.file_download as library

    monkeypatch.setattr(library, "time", SimpleNamespace(sleep=lambda _: None), raising=False)
    hub.add("models", "me/t0", t5())
    hub.faults.append(Fault("GET /content/", "drop"))
    with pytest.raises(
        UserError, match=r"model.safetensors of me/t0 cannot be loaded: the connection to the Hub broke"
    ):
        load("me/t0")


def test_a_hub_out_of_order(hub: StandIn, load: Load) -> None:
    hub.add("models", "me/t0", t5())
    hub.faults.append(Fault("/api/models/me/t0", 500))
    with pytest.raises(UserError, match=r"me/t0 .* cannot be loaded: the Hub is out of order \(it answers 500, http"):
        load("me/t0")


def test_a_hub_out_of_order_with_a_full_cache(hub: StandIn, load: Load, caplog: Any) -> None:
    hub.add("models", "me/t0", t5())
    load("me/t0")
    new_process()
    hub.faults.append(Fault("/api/models/me/t0", 503))
    with caplog.at_level(logging.INFO, logger="tfew"):
        load("me/t0")
    assert "the cached copy is used, commit " in caplog.text


def test_a_repository_that_went_is_used_from_the_cache_by_its_commit(hub: StandIn, load: Load) -> None:
    repository = hub.add("models", "me/t0", t5())
    load("me/t0")
    del hub.repositories["models", "me/t0"]
    new_process()
    load("me/t0", repository.head)
    new_process()
    with pytest.raises(UserError, match=r"the Hub has no such model, or it is private"):
        load("me/t0")


def test_gated(hub: StandIn, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("models", "me/t0", t5(), token="hf_good")
    with pytest.raises(UserError, match=r"its owner asks to accept conditions: do so on http://.*/me/t0, and log in"):
        load("me/t0")
    hub.valid_tokens.add("hf_other")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(UserError, match=r"conditions, which the account of your token has not done"):
        load("me/t0")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    load("me/t0")


def test_a_token_that_has_expired_on_a_public_model(hub: StandIn, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("models", "me/t0", t5())
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(UserError, match=r"the Hub does not accept your token, which may have expired: log in"):
        load("me/t0")


def test_there_is_no_such_model(hub: StandIn, load: Load) -> None:
    with pytest.raises(UserError, match=r"the Hub has no such model, or it is private and not shown"):
        load("me/none")


def test_a_repository_without_weights_of_a_form_that_is_read(hub: StandIn, load: Load) -> None:
    settings = {name: data for name, data in t5().items() if "safetensors" not in name}
    hub.add("models", "me/gguf", {**settings, "small-q4.gguf": b"GGUF"})
    with pytest.raises(UserError, match=r"me/gguf has no weights as .*: set model.gguf_file= \(small-q4.gguf\)"):
        load("me/gguf")


def test_a_disk_that_is_full_in_the_middle(hub: StandIn, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import file_download

    def fill(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    hub.add("models", "me/t0", t5())
    monkeypatch.setattr(file_download, "http_get", fill)
    with pytest.raises(
        UserError, match=r"the disk is full: make room, or set HF_HOME \(now .*hf_home\).*run the same command again"
    ):
        load("me/t0")


def test_a_disk_that_is_too_small(hub: StandIn, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("models", "me/t0", t5())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=40_000))
    with pytest.raises(UserError, match=r"me/t0 takes 0.3 MB, and .* has 0.0 MB free: make room, or set HF_HOME"):
        load("me/t0")
    assert "content" not in fetched(hub)


def test_a_slow_hub_is_waited_for(hub: StandIn, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfew_hub, "ANSWER_TIMEOUT_SECONDS", 0.3)
    hub.faults.append(Fault("HEAD /$", 0.1))
    assert tfew_hub.reachable()
    new_process()
    hub.faults[0].what = 0.6
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # put back after the test
    assert not tfew_hub.reachable()


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy(name: str, hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked, and counts as reachable if it answers for the Hub."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # put back after the test
    monkeypatch.setenv(name, hub.url)
    close_session()  # it read the environment when it was made
    assert tfew_hub.reachable()
    assert hub.requests[-1].startswith("HEAD http://hub.invalid")
    new_process()
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    close_session()
    assert not tfew_hub.reachable()
    monkeypatch.delenv(name)
    close_session()


def test_code_of_a_repository(hub: StandIn, load: Load, tmp_path: Path) -> None:
    """It is neither run nor downloaded, unless it is trusted."""
    mark = tmp_path / "ran"
    config = b'{"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}'
    code = f"open({str(mark)!r}, 'w')\n".encode()
    hub.add("models", "me/own", {**tokenizer_files(), "config.json": config, "own.py": code})
    with pytest.raises(UserError, match=r"brings Python code of its own, which is not run: .*trust_remote_code=me/own"):
        load("me/own")
    assert not mark.exists()
    assert not any("own.py" in line for line in hub.requests)
