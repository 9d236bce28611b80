"""Training in process: the files it writes, what it skips, and what its results do not depend on."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from tfew.config import compose
from tfew.errors import UserError
from tfew.evaluate import evaluate, with_run_settings
from tfew.runs.records import RunRecord, load_record
from tfew.runs.run_folder import is_finished
from tfew.schema import Prediction
from tfew.train import train

Train = Callable[..., RunRecord]


def folder(record: RunRecord) -> Path:
    return Path(record.config["runs"]) / record.name


def vectors(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "adapter.safetensors")


def predictions(path: Path) -> list[Prediction]:
    return [Prediction.from_json(line) for line in (path / "predictions.jsonl").read_text().splitlines()]


def metrics(path: Path) -> list[dict[str, str]]:
    with (path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_close(first: Path, second: Path, atol: float) -> None:
    ours, theirs = vectors(first), vectors(second)
    assert ours.keys() == theirs.keys()
    for name, vector in ours.items():
        torch.testing.assert_close(vector, theirs[name], atol=atol, rtol=0)


def test_what_a_run_leaves_behind(train_tiny: Train) -> None:
    record = train_tiny("steps=6", "shots=16")
    path = folder(record)
    assert load_record(path) == record
    assert record.name.startswith("demo_commits-tiny-ia3-tfew-s0-")
    assert {p.name for p in path.iterdir()} == {
        "adapter.json", "adapter.safetensors", "config.yaml", "few_shot", "metrics.csv", "predictions.jsonl",
        "speed.csv",
        "result.json", "temperature.json",
    }  # fmt: skip
    rows = metrics(path)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(
        float(row["loss"])
        == pytest.approx(float(row["lm_loss"]) + float(row["ul_loss"]) + float(row["ln_loss"]), rel=1e-5)
        for row in rows
    )
    found = predictions(path)
    assert len(found) == 36
    assert record.counts == {"rows": 12, "prompts": 36, "empty_renders": 0, "cut_prompts": 0}
    assert all(p.predicted == max(range(3), key=p.scores.__getitem__) for p in found)
    for name, template in record.metrics["templates"].items():
        mine = [p for p in found if p.template == name]
        assert template == {"accuracy": sum(p.predicted == p.label for p in mine) / 12, "rows": 12}
    assert record.metrics["chance"] == pytest.approx(1 / 3)
    trained = vectors(path)
    assert record.parameters["trainable"] == sum(v.numel() for v in trained.values()) == 2 * (64 * 6 + 128 * 2)
    assert record.adapter_bytes == (path / "adapter.safetensors").stat().st_size
    assert any((v != 1).any() for v in trained.values())
    assert OmegaConf.load(path / "config.yaml") == OmegaConf.create(record.config)


def test_a_finished_run_is_skipped_and_redone_when_asked(
    train_tiny: Train, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = train_tiny()
    stamp = (folder(first) / "result.json").stat().st_mtime_ns
    with caplog.at_level("INFO", logger="tfew"):
        assert train_tiny() == first
    assert "is finished; skipped (overwrite=true redoes it)" in caplog.text
    assert (folder(first) / "result.json").stat().st_mtime_ns == stamp
    (folder(first) / "checkpoint").mkdir()  # left by one that was killed after its last word
    for left in (".lock", "checkpoint/step=2.ckpt", ".result.json.0.tmp"):
        (folder(first) / left).touch()
    train_tiny()
    assert not [
        path for path in folder(first).glob("*") if path.name in (".lock", "checkpoint") or path.suffix == ".tmp"
    ]
    again = train_tiny("overwrite=true")
    assert (folder(again) / "result.json").stat().st_mtime_ns > stamp
    assert again.metrics == first.metrics


@pytest.mark.slow
def test_results_depend_on_neither_workers_nor_evaluation_batches_nor_micro_batches(
    train_tiny: Train, tmp_path: Path
) -> None:
    plain = train_tiny("steps=5", "model.arch.dropout_rate=0.0", runs=tmp_path / "a")
    workers = train_tiny("steps=5", "model.arch.dropout_rate=0.0", "workers=2", runs=tmp_path / "b")
    micro = train_tiny("steps=5", "model.arch.dropout_rate=0.0", "micro_batch_size=3", runs=tmp_path / "c")
    batches = train_tiny("steps=5", "model.arch.dropout_rate=0.0", "eval_batch_size=5", runs=tmp_path / "d")
    assert plain.name == workers.name != micro.name
    assert_close(folder(plain), folder(workers), atol=0)
    assert_close(folder(plain), folder(micro), atol=1e-5)
    for other in (workers, micro, batches):
        for ours, theirs in zip(predictions(folder(plain)), predictions(folder(other)), strict=True):
            assert (ours.template, ours.idx, ours.label) == (theirs.template, theirs.idx, theirs.label)
            assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)


def test_averaged_micro_batches_are_another_recipe(train_tiny: Train, tmp_path: Path) -> None:
    """The official way, behind fidelity=official: micro-batches of unequal size weigh differently."""
    ours = train_tiny("steps=5", "micro_batch_size=3", runs=tmp_path / "a")
    official = train_tiny("steps=5", "micro_batch_size=3", "fidelity.loss_mean=micro_batch", runs=tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_close(folder(ours), folder(official), atol=1e-5)


def test_seeds_draw_data_and_the_rest_apart(train_tiny: Train) -> None:
    base = train_tiny()
    other_data = train_tiny("few_shot_seed=1", "seed=0")
    other_rest = train_tiny("seed=1")
    shots = {name: (folder(r) / "few_shot").rglob("*.jsonl") for name, r in (("a", base), ("c", other_rest))}
    assert [p.read_text() for p in shots["a"]] == [p.read_text() for p in shots["c"]]
    for other in (other_data, other_rest):
        with pytest.raises(AssertionError):
            assert_close(folder(base), folder(other), atol=1e-6)


def test_evaluate_agrees_with_training_and_zero_shot_differs(train_tiny: Train, tmp_path: Path) -> None:
    trained = train_tiny("steps=10")
    path = folder(trained)
    config = with_run_settings(
        compose(f"adapter={path}", f"runs={tmp_path}", config_name="evaluate"), [f"adapter={path}"]
    )
    scored = evaluate(config)
    assert scored.metrics == trained.metrics
    assert (scored.command, scored.method, scored.adapter_bytes) == ("evaluate", "ia3", 0)
    evaluated = tmp_path / scored.name
    assert (evaluated / "predictions.jsonl").read_text() == (path / "predictions.jsonl").read_text()

    zero = compose(
        "+experiment=demo",
        "model=tiny",
        "dataset.generator.eval=12",
        "trainer=cpu",
        f"runs={tmp_path}",
        config_name="evaluate",
    )
    bare = evaluate(zero)
    assert bare.method == "zero_shot"
    assert bare.name.startswith("evaluate-demo_commits-tiny-zero_shot-")
    assert bare.parameters["trainable"] == 0
    gaps = [
        max(abs(a - b) for a, b in zip(p.scores, q.scores, strict=True))
        for p, q in zip(predictions(tmp_path / bare.name), predictions(path), strict=True)
    ]
    assert max(gaps) > 0.01


def over_run(path: Path, *said: str) -> Any:
    overrides = [f"adapter={path}", *said]
    return with_run_settings(compose(*overrides, config_name="evaluate"), overrides)


def test_evaluate_takes_the_runs_settings_and_the_command_lines(train_tiny: Train, made_data: Path) -> None:
    path = folder(train_tiny("max_tokens=100"))
    merged = over_run(path, "dataset=cb", f"data_dir={made_data}", "eval_batch_size=3")
    assert (merged.dataset.name, merged.max_tokens, merged.eval_batch_size) == ("cb", 100, 3)
    assert merged.model.name == "tiny"
    record = evaluate(merged)
    assert (record.dataset, record.counts["rows"]) == ("cb", 12)
    for training_setting in ("+experiment=cb", "loss=lm", "method=ia3", "name=x"):
        with pytest.raises(UserError, match="= belongs to training, and adapter= brings its run's settings"):
            over_run(path, training_setting)


@pytest.mark.parametrize("experiment", ["winogrande", "hellaswag", "storycloze", "anli_r1"])
def test_another_dataset_replaces_the_runs_own_wholly(experiment: str, made_data: Path, tmp_path: Path) -> None:
    common = ("model=tiny", "trainer=cpu", "steps=1", "shots=8", "few_shot=draw", f"data_dir={made_data}")
    path = folder(train(compose(f"+experiment={experiment}", *common, f"runs={tmp_path}")))
    merged = over_run(path, "dataset=rte", f"runs={tmp_path}")
    assert merged.dataset == compose("dataset=rte").dataset
    assert evaluate(merged).counts["rows"] == 12


def test_broken_run_folders_are_named(train_tiny: Train, tmp_path: Path) -> None:
    path = folder(train_tiny())
    (path / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result.json is not a record of this project"):
        over_run(path)
    for text, message in (("a: 1", "is not the configuration of a run"), ("a: [", "cannot be read as YAML")):
        (path / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            over_run(path)


def test_training_can_start_from_an_adapter(train_tiny: Train, caplog: pytest.LogCaptureFixture) -> None:
    first = train_tiny("steps=10")
    assert "trains nothing" not in caplog.text
    still = train_tiny("steps=1", f"init_adapter={folder(first)}")  # the first step has learning rate 0
    assert_close(folder(first), folder(still), atol=0)
    assert "steps=1 trains nothing, since the warm-up begins at 0: steps=2 or more, or warmup_ratio=0." in caplog.text
    moved = train_tiny("steps=3", f"init_adapter={folder(first)}")
    with pytest.raises(AssertionError):
        assert_close(folder(first), folder(moved), atol=1e-6)


@pytest.mark.parametrize(("loss", "terms"), [("lm", ()), ("lm_ul", ("ul_loss",)), ("lm_ln", ("ln_loss",))])
def test_loss_variants(loss: str, terms: tuple[str, ...], train_tiny: Train) -> None:
    record = train_tiny(f"loss={loss}")
    assert metrics(folder(record))[0].keys() == {"step", "loss", "lm_loss", "grad_norm", "lr", *terms}
    assert record.config["score"]["norm"] == ("token" if loss == "lm_ln" else "sum")


def test_a_run_folder_with_other_settings_is_not_touched(train_tiny: Train, tmp_path: Path) -> None:
    train_tiny(f"run_dir={tmp_path}/here")
    before = (tmp_path / "here" / "result.json").read_text()
    with pytest.raises(UserError, match=r"here holds a run with other settings \(steps: 4 there, 5 here\)"):
        train_tiny("steps=5", f"run_dir={tmp_path}/here")
    assert (tmp_path / "here" / "result.json").read_text() == before
    assert train_tiny("steps=5", f"run_dir={tmp_path}/here", "overwrite=true").config["steps"] == 5


def test_nothing_but_the_runs_own_files_is_ever_removed(train_tiny: Train, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "few_shot" / "rte").mkdir(parents=True)
    (home / "few_shot" / "rte" / "mine.jsonl").write_text("mine")
    with pytest.raises(UserError, match="home is not empty and holds no run of this project"):
        train_tiny(f"run_dir={home}", "overwrite=true")
    run = tmp_path / "run"
    train_tiny(f"run_dir={run}")
    for name in ("few_shot/mine/x.jsonl", "checkpoint/model.pt", "notes.txt"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("mine")
    train_tiny("steps=3", "few_shot_seed=5", f"run_dir={run}", "overwrite=true")
    for name in ("few_shot/mine/x.jsonl", "checkpoint/model.pt", "notes.txt"):
        assert (run / name).read_text() == "mine"
    assert [path.name for path in (run / "few_shot" / "commits").rglob("*.jsonl")] == ["5_seed.jsonl"]


def test_a_finished_run_survives_an_overwrite_that_cannot_start(train_tiny: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_tiny(f"run_dir={run}")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    empty = tmp_path / "empty"
    empty.mkdir()
    for bad in (
        [f"model.path={empty}"],
        [f"init_adapter={empty}"],
        ["optimizer.lr=abc"],
        ["method.targets={inputs: [x]}"],
    ):
        with pytest.raises(UserError):
            train_tiny(*bad, f"run_dir={run}", "overwrite=true")
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        with pytest.raises(UserError):
            train_tiny(*bad, f"run_dir={tmp_path}/new")
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("checkpoint_every", [2, 3])
def test_a_run_that_stopped_while_evaluating_goes_on(
    checkpoint_every: int, train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last step there may be a checkpoint of that very step, or an earlier one."""
    common = ("steps=4", f"checkpoint_every={checkpoint_every}")
    whole = train_tiny(*common, f"run_dir={tmp_path}/whole")

    def stop(*_: Any, **__: Any) -> None:
        raise UserError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr("tfew.ranking.evaluation.evaluate_model", stop)
        with pytest.raises(UserError, match="stopped"):
            train_tiny(*common, f"run_dir={tmp_path}/cut")
    resumed = train_tiny(*common, f"run_dir={tmp_path}/cut", "resume=true")
    assert resumed.metrics == whole.metrics
    assert_close(tmp_path / "whole", tmp_path / "cut", atol=0)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")


def test_a_run_killed_as_it_began_is_no_foreign_folder(train_tiny: Train, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.yaml.0a1b2c3d.tmp").write_text("na")
    assert train_tiny(f"run_dir={tmp_path}/run", "resume=true").counts["rows"] == 12


@pytest.mark.slow
def test_another_adapter_at_the_same_path_is_another_run(train_tiny: Train, tmp_path: Path) -> None:
    start = tmp_path / "start"
    train_tiny(f"run_dir={start}")
    first = train_tiny(f"init_adapter={start}")
    assert train_tiny(f"init_adapter={start}").name == first.name
    train_tiny("steps=9", f"run_dir={start}", "overwrite=true")
    assert train_tiny(f"init_adapter={start}").name != first.name


def test_an_old_model_card_goes_with_its_run_and_a_readme_stays(train_tiny: Train, tmp_path: Path) -> None:
    from tfew.runs.card import model_card

    record = train_tiny(f"run_dir={tmp_path}/run")
    card = tmp_path / "run" / "README.md"
    card.write_text(model_card(record, in_peft=True, merges=True))
    train_tiny(f"run_dir={tmp_path}/run", "overwrite=true")
    assert not card.exists()
    card.write_text("my own notes")
    train_tiny(f"run_dir={tmp_path}/run", "overwrite=true")
    assert card.read_text() == "my own notes"


def test_the_record_names_the_checkpoint_that_was_used(train_tiny: Train, tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    from tests.models import tiny_t5
    from tfew.runs.card import model_card

    tiny_t5(rows=384).save_pretrained(tmp_path / "mine")
    ByT5Tokenizer().save_pretrained(tmp_path / "mine")
    record = train_tiny("model=t0_3b", f"model.path={tmp_path}/mine")
    assert (record.model, record.name.split("-")[1]) == ("mine", "mine")
    card = model_card(record, in_peft=False, merges=False)
    assert "model.path=BASE_MODEL" in card
    assert "to=merged" not in card
    assert str(tmp_path) not in card


def test_names_are_made_of_what_matters() -> None:
    from tfew.runs.identity import run_name

    name = run_name(compose("+experiment=rte"))
    assert name.startswith("rte-t0_3b-ia3-tfew-s0-")
    for same in ("runs=x", "run_dir=y", "resume=true", "overwrite=true", "logger=wandb", "workers=3"):
        assert run_name(compose("+experiment=rte", same)) == name
    for other in ("steps=7", "few_shot_seed=1", "optimizer.lr=1", "fidelity=paper", "dataset.hub.revision=x"):
        assert run_name(compose("+experiment=rte", other)) != name


@pytest.mark.slow
def test_tensorboard_and_offline_wandb(train_tiny: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    board = train_tiny("logger=tensorboard", runs=tmp_path / "a")
    assert list(folder(board).rglob("events.out.tfevents.*"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = train_tiny("logger=wandb", runs=tmp_path / "b")
    assert list(folder(wandb).rglob("*.wandb"))
    assert board.metrics == wandb.metrics


def test_records_of_a_broken_run_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"result.json does not exist: the run did not finish"):
        load_record(tmp_path)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result.json is not a record of this project"):
        load_record(tmp_path)
    assert is_finished(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(UserError, match="is not a record"):
        load_record(tmp_path)
