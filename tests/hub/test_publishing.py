"""Upload and download of an adapter: its files, their visibility, and the same predictions by tfew and peft."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hub.conftest import DEMO, new_process
from tests.hub.repositories import t5
from tests.hub.stand_in import StandIn
from tests.hub.test_commits import evaluated, predictions
from tfew.config import compose
from tfew.convert import convert, with_base_of_run
from tfew.errors import UserError
from tfew.evaluate import evaluate
from tfew.files.checksums import to_checked_json
from tfew.files.hub_adapter import local_adapter
from tfew.models.backbone import load_model
from tfew.models.saved_task import task_of
from tfew.prediction.predictor import Predictor
from tfew.prediction.saved_run import with_run_settings
from tfew.prediction.tasks_file import task_folders
from tfew.runs.records import RunRecord
from tfew.train import train

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # huggingface_hub's upload
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # peft's
]
NAMES = {"README.md", "adapter.json", "adapter.safetensors", "adapter_config.json", "adapter_model.safetensors"}


@pytest.fixture
def run(trained: RunRecord, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    return trained


@pytest.fixture
def publish() -> Callable[..., Path]:
    def publish(folder: Path, *overrides: str) -> Path:
        given = [f"adapter={folder}", "to=hub", "repo=me/vectors", *overrides]
        return convert(with_base_of_run(compose(*given, config_name="convert"), given))

    return publish


def uploaded(hub: StandIn) -> dict[str, bytes]:
    repository = hub.repositories["models", "me/vectors"]
    return repository.commits[repository.head]


def test_what_goes_up(run: RunRecord, publish: Any, hub: StandIn, tmp_path: Path) -> None:
    """Weights, adapter.json and card: no rows, no texts, no paths, no settings."""
    publish(run.folder)
    files = uploaded(hub)
    assert set(files) == NAMES
    assert hub.repositories["models", "me/vectors"].private
    (shots,) = (run.folder / "few_shot").rglob("*.jsonl")
    values = [value for line in shots.read_text().splitlines() for value in json.loads(line).values()]
    texts = {value for value in values if isinstance(value, str)}
    assert len(texts) > 8
    everything = b"\n".join(files.values()).decode(errors="replace")
    assert not [text for text in texts if text in everything and len(text) > 12]
    for path in (str(tmp_path), str(Path.home()), str(run.folder), "/tmp", "hf_home"):
        assert path not in everything
    card = files["README.md"].decode()
    assert "base_model: me/t0" in card
    assert f"| commit of the base | {hub.repositories['models', 'me/t0'].head} |" in card
    assert "adapter=hub:me/vectors" in card
    assert files["adapter.safetensors"] == (run.folder / "adapter.safetensors").read_bytes()


@pytest.fixture
def own_run(run: RunRecord, tmp_path: Path) -> tuple[RunRecord, list[str]]:
    """Of a table of one's own, trained on the same base, and the table's texts."""
    texts = [f"order {i} came {'late and wet' if i % 2 else 'early, well packed'}" for i in range(16)]
    lines = ["says,kind", *(f'"{text}",{"bad" if i % 2 else "good"}' for i, text in enumerate(texts))]
    (tmp_path / "secret_orders.csv").write_text("\n".join(lines) + "\n")
    commit = run.config["model"]["commit"]
    base = ("model=tiny", "model.path=me/t0", f"model.commit={commit}", "trainer=cpu", f"runs={tmp_path}/own")
    settings = ("+experiment=local", f"data={tmp_path}/secret_orders.csv", "text=says", "label=kind", "folds=null")
    short = ("steps=12", "optimizer.lr=0.1", "batch_size=4", "max_tokens=64", "validation=0.25")
    return train(compose(*settings, *base, *short)), texts


def test_an_adapter_of_an_own_table_says_what_its_labels_are(
    own_run: tuple[RunRecord, list[str]], publish: Any, hub: StandIn, tmp_path: Path
) -> None:
    """It labels by its id alone, as from its run; what goes up has the template and the labels, no row and no path."""
    record, texts = own_run
    publish(record.folder)
    new_process()
    row = {"says": "order 99 came late, and wet through"}
    ours = Predictor.load(record.folder, "trainer=cpu")(row)
    theirs = Predictor.load("hub:me/vectors", "trainer=cpu")(row)
    assert theirs == ours
    assert theirs[0].label in ("bad", "good")
    everything = b"\n".join(uploaded(hub).values()).decode(errors="replace")
    assert not [text for text in texts if text in everything]
    for word in (str(tmp_path), "secret_orders.csv", str(record.folder)):
        assert word not in everything
    task = json.loads(uploaded(hub)["adapter.json"])["task"]
    assert (task["dataset"]["label"]["names"], task["dataset"]["columns"]) == (["bad", "good"], ["says"])
    assert (task["max_tokens"], task["dataset"]["files"]) == (64, {"train": [], "eval": []})
    assert "python -m tfew.predict adapter=hub:me/vectors input=new.csv output=labels.csv" in everything
    # and on other rows, whose columns have other names
    (tmp_path / "more.csv").write_text("words,is\n" + "".join(f"{text},good\n" for text in ("a b", "c d", "e f")))
    other = [f"data={tmp_path}/more.csv", "text=words", "label=is", "trainer=cpu", f"runs={tmp_path}/again"]
    given = ["adapter=hub:me/vectors", *other]
    again = evaluate(with_run_settings(compose(*given, config_name="evaluate"), given))
    given = [f"adapter={record.folder}", *other[:-1], f"runs={tmp_path}/from_run"]
    from_run = evaluate(with_run_settings(compose(*given, config_name="evaluate"), given))
    assert predictions(again.folder) == predictions(from_run.folder)
    assert again.counts["rows"] == 3


def test_a_published_adapter_is_published_again(
    own_run: tuple[RunRecord, list[str]], publish: Any, hub: StandIn
) -> None:
    """From where it was downloaded to, without its run: with the task that it says."""
    publish(own_run[0].folder)
    publish(local_adapter("hub:me/vectors"), "repo=me/copy")
    first, copy = (hub.repositories["models", name].files("main")["adapter.json"] for name in ("me/vectors", "me/copy"))
    assert json.loads(first)["task"] == json.loads(copy)["task"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"dataset": "mini"}, "does not describe its task: dataset"),
        ("yes", "does not describe its task"),
        (
            {"dataset": {"name": "${oc.env:HOME}"}, "templates": {}, "score": {}, "max_tokens": 8},
            "refers to something outside it",
        ),
    ],
)
def test_a_task_of_a_stranger(task: object, message: str, run: RunRecord, publish: Any, hub: StandIn) -> None:
    publish(run.folder)
    repository = hub.repositories["models", "me/vectors"]
    described = {**json.loads(repository.files("main")["adapter.json"]), "task": task}
    text = to_checked_json({key: value for key, value in described.items() if key != "sha256"})
    repository.commit({"adapter.json": text.encode()})
    new_process()
    with pytest.raises(UserError, match=message):
        Predictor.load("hub:me/vectors", "trainer=cpu")


def test_a_task_names_no_file_of_this_machine() -> None:
    """Whatever a stranger has written into it, and whatever the settings of a run said."""
    files = {"train": ["/etc/passwd", "RTE/train.jsonl", ["a.pos", "../a.neg"]], "eval": None}
    dataset = {"files": files, "layout": {"settings": ["/home/me/raft.jsonl"]}, "label": None}
    task = task_of({"dataset": dataset, "templates": {}, "score": {}, "max_tokens": 8})
    assert task is not None
    assert task["dataset"] == {"files": {"train": ["RTE/train.jsonl"], "eval": []}, "layout": None, "label": None}
    assert task_of({"dataset": {"members": {}}}) is None


def test_a_dry_run_uploads_nothing(run: RunRecord, publish: Any, hub: StandIn, caplog: Any) -> None:
    with caplog.at_level(logging.INFO, logger="tfew"):
        publish(run.folder, "dry_run=true")
    assert "Would upload to me/vectors (private), and nothing else: README.md (" in caplog.text
    assert not any(line.startswith(("POST", "PUT")) for line in hub.requests)


@pytest.mark.ci
def test_it_comes_back_by_its_id(run: RunRecord, publish: Any, hub: StandIn, tmp_path: Path) -> None:
    """Evaluation, labels, and a start of training, as from the folder, on the commit that it was trained on."""
    publish(run.folder)
    hub.repositories["models", "me/t0"].commit(t5(seed=1))
    new_process()
    data = ["dataset=mini/commits", "dataset.generator.eval=40", "trainer=cpu", f"runs={tmp_path}/again"]
    given = ["adapter=hub:me/vectors", *data]
    again = evaluate(with_run_settings(compose(*given, config_name="evaluate"), given))
    assert again.config["model"]["commit"] == run.config["model"]["commit"]
    assert predictions(again.folder) == predictions(run.folder)
    assert predictions(evaluated(run).folder) == predictions(run.folder)
    row = {"text": "Ann has a dog.", "claim": "Ann has a cat."}
    ours = Predictor.load(run.folder, "trainer=cpu")(row)
    assert Predictor.load("hub:me/vectors", "dataset=mini/commits", "trainer=cpu")(row) == ours
    assert Predictor.load("hub:me/vectors", "trainer=cpu")(row) == ours
    (tmp_path / "tasks.json").write_text('{"a": "hub:me/vectors"}')
    many = Predictor.load(task_folders(tmp_path / "tasks.json"), "dataset=mini/commits", "trainer=cpu")
    assert [found.label for found in many(row)] == [found.label for found in ours]
    commit = run.config["model"]["commit"]
    start = (*DEMO, "model.path=me/t0", f"model.commit={commit}", "steps=1", "trainer=cpu", f"runs={tmp_path}/next")
    started = train(compose(*start, "init_adapter=hub:me/vectors", "dataset.generator.eval=8"))
    assert started.config["init_adapter"] == "hub:me/vectors"


def test_peft_loads_it_by_its_id(run: RunRecord, publish: Any, hub: StandIn) -> None:
    from peft import PeftModel

    from tfew.models.build import attach_saved, saved_method

    publish(run.folder)
    config = compose("model=tiny", "model.path=me/t0", f"model.commit={run.config['model']['commit']}")
    model = load_model("me/t0", "main", torch.float32)
    attach_saved(run.folder, saved_method(run.folder, config)[1], model)
    theirs = PeftModel.from_pretrained(load_model("me/t0", "main", torch.float32), "me/vectors").eval()
    tokens = {"input_ids": torch.tensor([[5, 9, 11, 1]]), "decoder_input_ids": torch.tensor([[0, 7, 8]])}
    with torch.no_grad():
        ours, plain = model(**tokens).logits, load_model("me/t0", "main", torch.float32)(**tokens).logits
        assert torch.allclose(theirs(**tokens).logits, ours, atol=1e-5)
        assert not torch.allclose(plain, ours, atol=1e-3)


def test_an_adapter_of_peft_comes_down(run: RunRecord, publish: Any, hub: StandIn, tmp_path: Path) -> None:
    publish(run.folder)
    theirs = {name: data for name, data in uploaded(hub).items() if name.startswith("adapter_")}
    hub.add("models", "ann/peft", theirs)
    given = ["adapter=hub:ann/peft", "to=tfew", f"output={tmp_path}/came", "model=tiny", "model.path=me/t0"]
    convert(with_base_of_run(compose(*given, config_name="convert"), given))
    ours, came = (Path(folder, "adapter.safetensors").read_bytes() for folder in (run.folder, tmp_path / "came"))
    assert len(ours) == len(came)
    with pytest.raises(UserError, match=r"holds no adapter \(adapter.json is missing\)"):
        Predictor.load("hub:ann/peft", "dataset=mini/commits", "trainer=cpu")


def test_only_the_files_of_an_adapter_come_down(run: RunRecord, publish: Any, hub: StandIn) -> None:
    """No settings of a stranger's run, and no code."""
    publish(run.folder)
    more = {"config.yaml": b"model: {}", "setup.py": b"1", "result.json": b"{}"}
    hub.repositories["models", "me/vectors"].commit(more)
    new_process()
    assert {path.name for path in local_adapter("hub:me/vectors").iterdir()} == NAMES


def test_who_may_see_it(run: RunRecord, publish: Any, hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("models", "me/vectors", {})
    with pytest.raises(UserError, match=r"repo=me/vectors exists and is public: private=false uploads to it"):
        publish(run.folder)
    assert uploaded(hub) == {}
    publish(run.folder, "private=false")
    assert "adapter.json" in uploaded(hub)
    monkeypatch.delenv("HF_TOKEN")
    del hub.repositories["models", "me/vectors"]
    with pytest.raises(UserError, match=r"repo=me/vectors could not be written: the Hub asks who you are: log in with"):
        publish(run.folder)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["repo=null"], "repo= is missing"),
        (["repo=vectors"], r"repo=vectors does not name a repository of the Hub: OWNER/NAME"),
        (["private=maybe"], "private='maybe' is neither true nor false"),
    ],
)
def test_wrong_settings(overrides: list[str], message: str, run: RunRecord, publish: Any) -> None:
    with pytest.raises(UserError, match=message):
        publish(run.folder, *overrides)


def test_no_adapter_there(hub: StandIn) -> None:
    hub.add("models", "me/t0", {"config.json": b"{}"})
    with pytest.raises(UserError, match=r"hub:me/t0 holds neither adapter.json nor adapter_config.json; there: config"):
        local_adapter("hub:me/t0")
    with pytest.raises(UserError, match=r"hub:t0 does not name a repository of the Hub"):
        local_adapter("hub:t0")
    with pytest.raises(UserError, match=r"the Hub has no such model, or it is private"):
        local_adapter("hub:me/none")
