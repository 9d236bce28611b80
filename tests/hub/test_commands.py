"""Commands as people start them: processes of their own, with HF_ENDPOINT and an HF_HOME, and no offline mode."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gguf_files import write_llama
from tests.hub.conftest import DEMO, SMALL
from tests.hub.repositories import parquet, rows, t5, two_configurations
from tests.hub.shell import ROOT, Shell
from tests.hub.stand_in import Fault


@pytest.mark.slow
def test_train_on_pickles_then_evaluate_on_the_same_commit_without_the_hub(shell: Shell) -> None:
    repository = shell.server.add("models", "me/t0", t5("bin"))
    written = shell("train", *SMALL, "model.path=me/t0")
    assert "Downloading me/t0, " in written
    assert not any(word in line for line in shell.server.requests for word in ("discussions", "refs%2Fpr", "refs/pr"))
    assert sum("/content/" in line for line in shell.server.requests) == 1
    base = json.loads((shell.run() / "adapter.json").read_text())["base"]
    assert base["commit"] == repository.head
    repository.commit(t5("bin", seed=1))
    shell.server.faults.append(Fault("", "drop"))
    written = shell("evaluate", f"adapter={shell.run()}", "trainer=cpu")
    assert "cannot be reached" in written


@pytest.mark.drill
def test_publish_and_predict_by_id_in_another_home(shell: Shell, tmp_path: Path) -> None:
    shell.server.add("models", "me/t0", t5())
    shell("train", *SMALL, "model.path=me/t0")
    login = {"HF_TOKEN": "hf_good", "HF_HUB_DISABLE_XET": "1"}
    shell("convert", f"adapter={shell.run()}", "to=hub", "repo=me/vectors", **login)
    assert shell.server.repositories["models", "me/vectors"].private
    rows = '{"text": "Ann has a dog.", "claim": "Ann has a cat."}\n'
    (tmp_path / "new.jsonl").write_text(rows)
    shell("predict", f"adapter={shell.run()}", "input=new.jsonl", "output=here.jsonl", "trainer=cpu")
    other = Shell(shell.server, tmp_path / "other_home", tmp_path)
    data = ("dataset=mini/commits", "input=new.jsonl", "output=there.jsonl", "trainer=cpu")
    other("predict", "adapter=hub:me/vectors", *data, **login)
    here, there = (json.loads((tmp_path / name).read_text()) for name in ("here.jsonl", "there.jsonl"))
    assert here == there


@pytest.mark.drill
@pytest.mark.parametrize(
    ("form", "overrides"), [("sharded", ()), ("sharded_bin", ()), ("safetensors", ("model.revision=FIRST",))]
)
def test_zero_shot_on_every_form(form: str, overrides: tuple[str, ...], shell: Shell) -> None:
    repository = shell.server.add("models", "me/t0", t5(form))
    first = repository.head
    repository.commit(t5(form, seed=1))
    named = [override.replace("FIRST", first) for override in overrides]
    written = shell("evaluate", *DEMO, "model.path=me/t0", "dataset.generator.eval=8", "trainer=cpu", *named)
    assert "record: " in written


@pytest.mark.drill
def test_gguf(shell: Shell, tmp_path: Path) -> None:
    write_llama(tmp_path / "small.gguf")
    shell.server.add("models", "me/gguf", {"small.gguf": (tmp_path / "small.gguf").read_bytes()})
    where = ("model.path=me/gguf", "model.gguf_file=small.gguf", "max_tokens=40")
    written = shell("evaluate", *DEMO, *where, "dataset.generator.eval=4", "trainer=cpu")
    assert "record: " in written


@pytest.mark.drill
def test_data_with_configurations(shell: Shell) -> None:
    shell.server.add("datasets", "me/films", two_configurations())
    own = ("+experiment=local", "data=me/films", "folds=null", "model=tiny", "steps=2", "batch_size=4", "trainer=cpu")
    written = shell("train", *own, code=1)
    assert "its configurations are large, small; say dataset.hub.config=" in written
    written = shell("train", *own, "dataset.hub.config=small", "dataset.hub.eval=test")
    assert "accuracy" in written


@pytest.mark.drill
@pytest.mark.parametrize(
    ("fault", "variables", "sentence"),
    [
        (None, {"HF_HUB_OFFLINE": "1"}, "offline mode is on (HF_HUB_OFFLINE)"),
        (None, {"HF_TOKEN": "hf_old"}, "the Hub does not accept your token"),
        (Fault("", "drop"), {}, "the Hub cannot be reached"),
        (Fault("/api/models/me/t0", 503), {}, "the Hub is out of order (it answers 503"),
        (Fault("/content/", "cut"), {}, "model.safetensors of me/t0 cannot be had"),
        ("gated", {}, "its owner asks to accept conditions: do so on"),
    ],
)
def test_one_sentence(fault: Any, variables: dict[str, str], sentence: str, shell: Shell) -> None:
    shell.server.add("models", "me/t0", t5(), token="hf_good" if fault == "gated" else None)
    if isinstance(fault, Fault):
        shell.server.faults.append(fault)
    assert sentence in shell("evaluate", *DEMO, "model.path=me/t0", "trainer=cpu", code=1, **variables)


@pytest.mark.drill
def test_the_bar_of_a_download_on_a_terminal(shell: Shell) -> None:
    """Nothing is said to a file or pipe but how much comes; on a terminal there is huggingface_hub's bar."""
    import pty

    shell.server.add("models", "me/t0", t5())
    ours, theirs = pty.openpty()
    env = {**os.environ, "HF_ENDPOINT": shell.server.url, "HF_HOME": str(shell.home), "PYTHONPATH": str(ROOT)}
    for name in ("HF_HUB_OFFLINE", "TQDM_DISABLE"):
        env.pop(name, None)
    arguments = (*DEMO, "model.path=me/t0", "dataset.generator.eval=8", "trainer=cpu")
    command = [sys.executable, "-m", "tfew.evaluate", *arguments]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=env, cwd=shell.cwd)
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 0
    assert b"model.safetensors" in written
    assert b"100%" in written


@pytest.mark.drill
def test_a_data_set_of_parquet_alone(shell: Shell) -> None:
    """Without a README: the library finds the files by their names."""
    shell.server.add("datasets", "me/plain", {"data/train-00000-of-00001.parquet": parquet(rows())})
    own = ("+experiment=local", "data=me/plain", "folds=2", "model=tiny", "steps=2", "batch_size=4", "trainer=cpu")
    assert "accuracy" in shell("train", *own)
