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
from tfew.config import compose, resolved
from tfew.data.dataset import DatasetSpec
from tfew.data.templates import Template, load_templates
from tfew.schema import Example


@pytest.mark.slow
def test_train_on_pickles_then_evaluate_on_the_same_commit_without_the_hub(shell: Shell) -> None:
    repository = shell.server.add("models", "me/t0", t5("bin"))
    repository.pull_request(t5())
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


# another project: transformers and peft alone, which know the adapter and its base by their ids on the Hub
WITH_PEFT = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

id, commit, prompts = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3]))
tokenizer = AutoTokenizer.from_pretrained("me/t0", revision=commit)
base = AutoModelForSeq2SeqLM.from_pretrained("me/t0", revision=commit)
model = PeftModel.from_pretrained(base, id).eval()
assert "tfew" not in sys.modules

def score(input, choice):
    labels = tokenizer(choice, return_tensors="pt").input_ids
    logits = model(**tokenizer(input, return_tensors="pt"), labels=labels).logits[0]
    return logits.log_softmax(-1).gather(1, labels[0][:, None]).mean()

def probabilities():
    scores = [[[score(prompt["input"], choice) for choice in prompt["choices"]] for prompt in row] for row in prompts]
    return [torch.tensor(row).softmax(-1).mean(0).tolist() for row in scores]

with torch.no_grad(), model.disable_adapter():
    plain = probabilities()
with torch.no_grad():
    print(json.dumps([probabilities(), plain]))
"""


@pytest.mark.drill
def test_publish_and_label_by_id_in_other_processes(shell: Shell, tmp_path: Path) -> None:
    """By tfew with another HF_HOME, and by peft without tfew: the same probabilities, of the commit trained on."""
    repository = shell.server.add("models", "me/t0", t5())
    commit = repository.head
    shell("train", *SMALL, "model.path=me/t0", "steps=12", "optimizer.lr=0.1")
    login = {"HF_TOKEN": "hf_good", "HF_HUB_DISABLE_XET": "1"}
    shell("convert", f"adapter={shell.run()}", "to=hub", "repo=me/vectors", **login)
    assert shell.server.repositories["models", "me/vectors"].private
    rows = [{"text": f"Ann has a {pet}.", "claim": "Ann has a cat."} for pet in ("dog", "cat", "bird", "horse")]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shell("predict", f"adapter={shell.run()}", "input=new.jsonl", "output=here.jsonl", "trainer=cpu")
    repository.commit(t5(seed=1))
    other = Shell(shell.server, tmp_path / "other_home", tmp_path)
    other("predict", "adapter=hub:me/vectors", "input=new.jsonl", "output=there.jsonl", "trainer=cpu", **login)
    here, there = ((tmp_path / name).read_text().splitlines() for name in ("here.jsonl", "there.jsonl"))
    assert here == there
    ours = [list(json.loads(line)["probabilities"].values()) for line in here]
    spec = DatasetSpec.from_config(resolved(compose("dataset=mini/commits").dataset))
    prompts = [[_prompt(template, spec, row) for template in load_templates(spec.prompts)] for row in rows]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    third = Shell(shell.server, tmp_path / "third_home", tmp_path)
    written = third.python("-c", WITH_PEFT, "me/vectors", commit, "prompts.json", **login)
    theirs, plain = json.loads(written.splitlines()[-1])
    assert [pytest.approx(row, abs=1e-5) for row in theirs] == ours
    assert not [row for row, base in zip(ours, plain, strict=True) if row == pytest.approx(base, abs=1e-2)]


def _prompt(template: Template, spec: DatasetSpec, row: dict[str, str]) -> dict[str, Any]:
    prompt = template.render(spec.name, Example(0, row, None))
    assert prompt is not None
    return {"input": prompt.input, "choices": list(prompt.choices)}


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
    assert "its configurations are large, small; set dataset.hub.config=" in written
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
        (Fault("/content/", "cut"), {}, "model.safetensors of me/t0 cannot be loaded"),
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
    import fcntl
    import pty
    import struct
    import termios

    shell.server.add("models", "me/t0", t5())
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 110, 0, 0))  # there is no bar where no column is
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
