"""The commit that a run used, and that its adapter requires it: a moved branch, another model of the same shape."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hub.conftest import DEMO, new_process
from tests.hub.repositories import parquet, rows, t5, tokenizer_files, two_configurations
from tests.hub.stand_in import StandIn
from tests.models import tiny_t5
from tfew.config import compose
from tfew.errors import UserError
from tfew.evaluate import evaluate
from tfew.files.checksums import to_checked_json
from tfew.models.adapters_io import adapter_description
from tfew.models.weights_sample import weights_sample_sha256
from tfew.prediction.predictor import Predictor
from tfew.prediction.saved_run import with_run_settings
from tfew.runs.identity import run_name
from tfew.runs.records import RunRecord
from tfew.runs.run_folder import saved_settings
from tfew.together import train_together
from tfew.train import train

pytestmark = pytest.mark.filterwarnings("ignore")  # datasets', of what it finds in its cache
Train = Callable[..., RunRecord]
FOLDERS = count()


@pytest.fixture
def run(hub: StandIn, train_tiny: Any) -> Train:
    """Trains a model of the stand-in, made there where it is not."""
    if ("models", "me/t0") not in hub.repositories:
        hub.add("models", "me/t0", t5())
    return lambda *overrides, **options: train_tiny("model.path=me/t0", *overrides, **options)


def evaluated(record: RunRecord, *overrides: str) -> RunRecord:
    runs = f"runs={record.folder.parent}/evaluated_{next(FOLDERS)}"
    given = [f"adapter={record.folder}", "trainer=cpu", runs, *overrides]
    return evaluate(with_run_settings(compose(*given, config_name="evaluate"), given))


def predictions(folder: Path) -> list[Any]:
    return [json.loads(line)["scores"] for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_a_run_notes_its_commit_and_weights_everywhere_but_in_its_name(hub: StandIn, run: Train) -> None:
    record = run()
    commit = hub.repositories["models", "me/t0"].head
    base = adapter_description(record.folder)["base"]
    settings = saved_settings(record.folder)
    assert settings is not None
    for noted in (record.config["model"], settings["model"], base):
        assert noted["commit"] == commit
        assert len(noted["weights_sample_sha256"]) == 64
    config = compose(*DEMO, "steps=4", "trainer=cpu", "dataset.generator.eval=12", "model.path=me/t0")
    assert run_name(config) == record.name


def test_a_moved_main(hub: StandIn, trained: RunRecord) -> None:
    """The adapter is used on the commit that it was trained on; on the new one only if that is said."""
    record = trained
    repository = hub.repositories["models", "me/t0"]
    first = repository.head
    repository.commit(t5(seed=1))
    new_process()
    again = evaluated(record)
    assert again.config["model"]["commit"] == first
    assert predictions(again.folder) == predictions(record.folder)
    with pytest.raises(UserError, match=rf"another model: {first} and not {repository.head}: .* base=any"):
        evaluated(record, f"model.revision={repository.head}")
    with pytest.raises(UserError, match=r"holds this run with other files of the Hub \(model.commit: .* overwrite="):
        evaluated(record, "model.revision=main", f"runs={again.folder.parent}")
    with pytest.raises(UserError, match=rf"another model: {first} and not {repository.head}: .* base=any"):
        evaluated(record, "model.revision=main")
    other = evaluated(record, "model.revision=main", "base=any")
    assert other.config["model"]["commit"] == repository.head
    assert other.name != again.name
    assert predictions(other.folder) != predictions(record.folder)
    row = {"text": "Ann has a dog.", "claim": "Ann has a cat."}
    with pytest.raises(UserError, match="base=any"):
        Predictor.load(record.folder, f"model.revision={repository.head}", "trainer=cpu")
    kept = Predictor.load(record.folder, "trainer=cpu")(row)
    assert Predictor.load(record.folder, "trainer=cpu", "model.revision=main", "base=any")(row) != kept


def test_another_model_of_the_same_shape(hub: StandIn, trained: RunRecord, tmp_path: Path, caplog: Any) -> None:
    record = trained
    hub.add("models", "me/other", t5(seed=1))
    for name, files in {"other": t5(seed=1), "copy": t5()}.items():
        (tmp_path / name).mkdir()
        for file, data in files.items():
            (tmp_path / name / file).write_bytes(data)
    with pytest.raises(UserError, match=r"another model: me/t0 and not me/other, .* base=any"):
        evaluated(record, "model.path=me/other")
    with pytest.raises(UserError, match=r"was trained on other weights .*of the model t0\).* base=any"):
        evaluated(record, f"model.path={tmp_path}/other")
    same = evaluated(record, f"model.path={tmp_path}/copy")
    assert predictions(same.folder) == predictions(record.folder)
    with caplog.at_level(logging.INFO, logger="tfew"):
        evaluated(record, "model.path=me/other", "base=any")
    assert "was trained on another model: me/t0 and not me/other" in caplog.text


def test_a_tokenizer_of_another_repository_has_a_revision_of_its_own(hub: StandIn, run: Train) -> None:
    """The model's was asked of it."""
    hub.add("models", "me/tokenizer", tokenizer_files())
    first = hub.repositories["models", "me/t0"].head
    record = run("model.tokenizer=me/tokenizer", f"model.revision={first}")
    commit = hub.repositories["models", "me/tokenizer"].head
    assert record.config["model"]["tokenizer_commit"] == commit
    assert adapter_description(record.folder)["base"]["tokenizer_commit"] == commit
    assert not any(f"me/tokenizer/resolve/{first}" in line for line in hub.requests)
    hub.repositories["models", "me/tokenizer"].commit({"tokenizer.json": b"{}", "tokenizer_config.json": b"{"})
    new_process()
    assert predictions(evaluated(record).folder) == predictions(record.folder)
    with pytest.raises(UserError, match=r"model.tokenizer=me/tokenizer cannot be loaded"):
        evaluated(record, "model.tokenizer_revision=main")


def test_data_of_a_commit(hub: StandIn, tmp_path: Path) -> None:
    data = hub.add("datasets", "me/films", two_configurations())
    settings = ("+experiment=local", "data=me/films", "dataset.hub.config=small", "dataset.hub.eval=test", "folds=null")
    small = ("model=tiny", "steps=2", "batch_size=4", "trainer=cpu", f"runs={tmp_path}")
    record = train(compose(*settings, *small))
    assert record.config["dataset"]["hub"]["commit"] == data.head
    first = data.head
    data.commit({"small/test.parquet": parquet(rows(12, 300))})
    new_process()
    again = evaluated(record)
    assert (again.counts["rows"], again.config["dataset"]["hub"]["commit"]) == (8, first)
    moved = evaluated(record, "dataset.hub.revision=main")
    assert (moved.counts["rows"], moved.config["dataset"]["hub"]["commit"]) == (12, data.head)


def test_an_unfinished_run_goes_on_with_the_commits_that_it_began_with(hub: StandIn, run: Train) -> None:
    record = run()
    first = hub.repositories["models", "me/t0"].head
    hub.repositories["models", "me/t0"].commit(t5(seed=1))
    (record.folder / "result.json").unlink()
    new_process()
    again = run("resume=true")
    assert again.config["model"]["commit"] == first
    assert predictions(again.folder) == predictions(record.folder)


@pytest.mark.drill
def test_runs_trained_together_note_theirs(hub: StandIn, run: Train, tmp_path: Path) -> None:
    common = (*DEMO, "model.path=me/t0", "steps=2", "trainer=cpu", "dataset.generator.eval=8", f"runs={tmp_path}/runs")
    configs = [compose(*common, f"few_shot_seed={seed}") for seed in (0, 1)]
    for record in train_together(configs):
        assert record.config["model"]["commit"] == hub.repositories["models", "me/t0"].head
        assert adapter_description(record.folder)["base"]["weights_sample_sha256"]


@pytest.mark.drill
def test_adapters_of_several_tasks_share_one_commit(hub: StandIn, run: Train, tmp_path: Path) -> None:
    first = run()
    hub.repositories["models", "me/t0"].commit(t5(seed=1))
    new_process()
    second = run("few_shot_seed=1")
    with pytest.raises(UserError, match=r"Task 'b' was trained on another model than the first one \(commit: "):
        Predictor.load({"a": first.folder, "b": second.folder}, "trainer=cpu")
    old = json.loads((second.folder / "adapter.json").read_text())
    assert old["base"]["commit"]


def test_an_adapter_that_does_not_say_which_weights_it_belongs_to(trained: RunRecord, tmp_path: Path) -> None:
    """One of before: it works, on whatever weights there are."""
    folder = shutil.copytree(trained.folder, tmp_path / "old")
    path = folder / "adapter.json"
    described = json.loads(path.read_text())
    described["base"] = {key: described["base"][key] for key in ("name", "path")}
    path.write_text(to_checked_json({key: value for key, value in described.items() if key != "sha256"}))
    settings = folder / "config.yaml"
    settings.write_text(re.sub(r"(?m)^ +(commit|weights_sample_sha256):.*\n", "", settings.read_text()))
    given = [f"adapter={folder}", "trainer=cpu", f"runs={tmp_path}/again"]
    again = evaluate(with_run_settings(compose(*given, config_name="evaluate"), given))
    assert predictions(again.folder) == predictions(trained.folder)


def test_the_sample_of_weights() -> None:
    model = tiny_t5()
    sample = weights_sample_sha256(model)
    assert weights_sample_sha256(tiny_t5()) == sample
    assert weights_sample_sha256(tiny_t5().to(torch.bfloat16)) == sample
    assert weights_sample_sha256(tiny_t5(feed_forward="relu")) != sample
    for name, parameter in model.named_parameters():
        changed = tiny_t5()
        dict(changed.named_parameters())[name].data += 1 + torch.rand_like(parameter)
        assert weights_sample_sha256(changed) != sample, name
