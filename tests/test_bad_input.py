"""User errors for which the README promises one clear sentence: the sentence, the exit code, no leftover files."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import T5Config, T5ForConditionalGeneration

from tests.commands import run_command
from tests.models import tiny_t5
from tfew.config import MAX_NAME_BYTES, checked, compose
from tfew.errors import UserError
from tfew.files import hub
from tfew.models import backbone
from tfew.models.adapters_io import load_weights, save_adapter
from tfew.models.backbone import load_model, load_tokenizer
from tfew.train import train


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+experiment=rtee"], "Unknown experiment 'rtee' (+experiment=). Did you mean 'rte'?"),
        (["model=t0_4b"], "Unknown model 't0_4b' (model=). Did you mean 't0_3b'?"),
        (["method=lorax"], "Unknown method 'lorax' (method=). Did you mean 'lora'?"),
        (["stepz=3"], "stepz= is not a setting. Did you mean steps=?"),
        (["few_shot=offical"], "Unknown value 'offical' (few_shot=). Did you mean 'official'?"),
        (["data_dir=/nowhere"], "data_dir=/nowhere does not exist."),
        (["+experiment=local"], "data= is missing: the file with your rows"),
        (["+experiment=local", "data=/nowhere/mine.csv"], "/nowhere/mine.csv does not exist."),
    ],
)  # fmt: skip
def test_from_the_command_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = run_command("tfew.train", *arguments, f"runs={tmp_path}/runs")
    assert result.returncode in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()


def test_full_error_shows_the_traceback() -> None:
    result = run_command("tfew.train", "data_dir=/nowhere", HYDRA_FULL_ERROR="1")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.slow
def test_one_bad_job_of_a_sweep_leaves_the_others_running(tmp_path: Path) -> None:
    result = run_command(
        "tfew.train",
        "-m",
        "+experiment=demo",
        "model=tiny",
        "steps=0,2",
        "trainer=cpu",
        "dataset.generator.eval=4",
        f"runs={tmp_path}",
    )
    assert result.returncode == 1
    assert "FAILED: steps=0: steps=0 is not a whole number of at least 1.\n" in result.stdout
    assert len(list(tmp_path.glob("demo_*/result.json"))) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=many", "steps=many is not a whole number of at least 1"),
        ("batch_size=0", "batch_size=0 is not a whole number of at least 1"),
        ("micro_batch_size=1.5", "micro_batch_size=1.5 is not a whole number"),
        ("warmup_ratio=1", r"warmup_ratio=1 is not in \[0, 1\)"),
        ("templates.eval=some", r"Unknown value 'some' \(templates.eval=\). Known: 'each', 'random'"),
        ("score.norm=mean", r"Unknown value 'mean' \(score.norm=\)"),
        ("model.dtype=float16", r"Unknown value 'float16' \(model.dtype=\)"),
        ("resume=maybe", "resume='maybe' is neither true nor false"),
        ("init_adapter=/nowhere", "init_adapter=/nowhere does not exist"),
        (f"init_adapter={__file__}", "is a file, not a run or adapter folder"),
        ("warmup_ratio=abc", r"warmup_ratio=abc is not in \[0, 1\)"),
        ("clip_norm=null", "clip_norm=None is not a number above 0"),
        ("optimizer.lr=-1", "optimizer.lr=-1 is not a number above 0"),
        ("optimizer.lr=inf", "optimizer.lr=inf is not a number above 0"),
        ("loss.lm=x", "loss.lm=x is not a number of at least 0"),
        ("fidelity.autocast=nope", "fidelity.autocast='nope' is neither true nor false"),
        ("trainer.accelerator=banana", r"Unknown value 'banana' \(trainer.accelerator=\)"),
        ("templates=single", "templates=single needs templates.name="),
        ("templates.name=x", "templates.name='x' goes with templates=single, not original"),
        ("model.path=./modell", "model.path=./modell: there is no such folder"),
        ("model.tokenizer=/no/where", "model.tokenizer=/no/where: there is no such folder"),
    ],
)
def test_values_that_cannot_work(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked(compose("+experiment=demo", "model=tiny", override))


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(UserError, match="resume=true and overwrite=true contradict each other"):
        checked(compose("resume=true", "overwrite=true"))
    with pytest.raises(UserError, match="are all 0: nothing would be trained"):
        checked(compose("loss.lm=0", "loss.ul=0", "loss.ln=0"))


def test_paths_are_made_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    config = checked(compose("runs='~/runs'", "run_dir=5", "name=2024"))
    assert (config.runs, config.run_dir, config.name) == ("/home/ann/runs", "5", "2024")


@pytest.mark.parametrize("key", ["data_dir", "runs", "model.path", "init_adapter", "data"])
def test_longest_name_in_a_path(key: str, tmp_path: Path) -> None:
    def message(name: str) -> str:
        try:
            checked(compose("dataset=mini/complaint", "model=tiny", f"{key}={tmp_path}/{name}"))
        except UserError as error:
            return str(error)
        return ""

    longest = "x" * MAX_NAME_BYTES
    (tmp_path / longest).mkdir()
    assert "is not a valid path" not in message(longest)
    assert "is not a valid path: a name in it has a NUL, or more than 255 bytes" in message(longest + "x")
    assert "is not a valid path" in message("x/" * 100 + longest + "x")


def test_bad_data_leaves_nothing_behind(made_data: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    good_row = {"premise": "p", "hypothesis": "h", "label": 0}
    for text, message in (
        ("", "bad.jsonl is empty"),
        ('{"premise": 1', "bad.jsonl, line 1 is not valid JSON"),
        (json.dumps({"premise": "p", "label": 0}), "row 1 lacks 'hypothesis'"),
        (json.dumps({**good_row, "label": 5}), "row 1: label 5 in column 'label' is none of"),
    ):
        bad.write_text(text)
        overrides = ("+experiment=rte", f"data_dir={made_data}", "few_shot=draw", "shots=8", f"runs={tmp_path}/runs")
        with pytest.raises(UserError, match=message):
            train(compose(*overrides, f"dataset.files.eval=[{bad}]"))
        assert not (tmp_path / "runs").exists()


def test_unreachable_hub_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is refused is tried once and ends in offline mode; the sentences name the way out."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing listens
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv(hub.SET_HERE, "")  # put back after the test
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    hub.reachable.cache_clear()
    assert not hub.reachable()
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(UserError, match=r"aps/super_glue \(rte, train, revision main\) cannot be loaded.*data_dir="):
        train(compose("+experiment=rte", "few_shot=draw"))
    with pytest.raises(
        UserError, match=r"model.path=bigscience/T0_3B cannot be loaded: .* the Hub cannot be reached.*model=tiny"
    ):
        load_model("bigscience/T0_3B", "main", torch.float32)
    with pytest.raises(UserError, match=r"model.tokenizer=google/t5-x cannot be loaded: .*Hub cannot be.*model=tiny"):
        load_tokenizer("google/t5-x", "main")
    hub.reachable.cache_clear()


def test_offline_mode_is_taken_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    hub.reachable.cache_clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not hub.reachable()
    with pytest.raises(
        UserError, match=r"google/t5-x \(revision main\) is not in the Hub's cache here, and offline mode"
    ):
        load_tokenizer("google/t5-x", "main")
    hub.reachable.cache_clear()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tiny_t5().save_pretrained(tmp_path / "t5")
    return tmp_path / "t5"


def test_an_untied_checkpoint_keeps_its_head(checkpoint: Path) -> None:
    model = load_model(str(checkpoint), "main", torch.float32)
    assert torch.equal(model.lm_head.weight, tiny_t5().lm_head.weight)
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
    assert not model.training


def test_a_head_that_was_lost_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    config = T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, vocab_size=128, tie_word_embeddings=False)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "lost")  # tied, though it says untied
    with pytest.raises(UserError, match=r"The output head of .*lost \(lm_head\) was lost on load"):
        load_model(str(tmp_path / "lost"), "main", torch.float32)
    # the very loss that this guards against, on a checkpoint that is whole
    model = load_model(str(checkpoint), "main", torch.float32)
    model.tie_weights(recompute_mapping=False)
    model.lm_head.weight = model.shared.weight
    with pytest.raises(UserError, match="was lost on load"):
        backbone.check_head(model, "x")


def test_the_first_t5_is_tied_and_welcome(tmp_path: Path) -> None:
    config = T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, vocab_size=128)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    model = load_model(str(tmp_path / "t5"), "main", torch.float32)
    assert model.lm_head.weight is model.shared.weight


def test_a_checkpoint_with_other_keys_or_shapes_lists_both_sides(checkpoint: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    moved = dict(weights)
    moved["encoder.odd.weight"] = moved.pop("encoder.final_layer_norm.weight")
    save_file(moved, path, metadata={"format": "pt"})
    with pytest.raises(
        UserError,
        match=r"in the model but not in the file: encoder.final_layer_norm.weight; in the file but not in the"
        r" model: encoder.odd.weight; of another shape: none",
    ):
        load_model(str(checkpoint), "main", torch.float32)
    weights["encoder.final_layer_norm.weight"] = torch.ones(7)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"of another shape: encoder.final_layer_norm.weight \[7\] instead of \[32\]"):
        load_model(str(checkpoint), "main", torch.float32)


def test_tokenizers_that_do_not_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds neither tokenizer_config.json nor spiece.model"):
        load_tokenizer(str(tmp_path), "main")


def test_adapters_that_do_not_fit(train_tiny: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no adapter \(adapter.safetensors is missing\)"):
        load_weights(tmp_path)
    (tmp_path / "adapter.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(UserError, match=r"adapter.safetensors cannot be read"):
        load_weights(tmp_path)
    record = train_tiny()
    with pytest.raises(
        UserError,
        match=r"does not fit this model and method. Only in the file: .*\[128\].*; only in the model: .*\[96\]",
    ):
        train_tiny("model.arch.d_ff=96", f"init_adapter={Path(record.config['runs']) / record.name}")


def test_an_adapter_may_not_name_code_of_its_own(train_tiny: Callable[..., Any], tmp_path: Path) -> None:
    from tfew.models.build import saved_method

    save_adapter(tmp_path, {}, {"name": "x", "_target_": "os.system"}, {})
    with pytest.raises(UserError, match=r"names a method that this project does not have: 'os.system'"):
        saved_method(tmp_path, compose("model=tiny"))
    save_adapter(tmp_path, {}, {"name": "x", "_target_": "tfew.methods.nope.X"}, {})
    with pytest.raises(UserError, match=r"There is no method 'tfew.methods.nope.X'"):
        saved_method(tmp_path, compose("model=tiny"))
    (tmp_path / "adapter.json").write_text("{}")
    with pytest.raises(UserError, match=r"adapter.json does not describe an adapter of this project"):
        saved_method(tmp_path, compose("model=tiny"))


def test_a_loss_that_is_not_finite_stops_the_run(train_tiny: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"The loss is not finite at step \d \(.*loss (nan|inf).*not finished"):
        train_tiny("optimizer.lr=1e30", "clip_norm=1e30", f"run_dir={tmp_path}/run")
    assert not (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "adapter.safetensors").exists()


def test_a_run_folder_that_cannot_be_written(train_tiny: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\): choose another place with runs="):
        train_tiny(f"run_dir={tmp_path}/file/run")


def test_a_disk_that_is_full_at_the_end(
    train_tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith("result.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"result.json cannot be written \(No space left on device\)"):
        train_tiny(f"run_dir={tmp_path}/run", "checkpoint_every=2")
    assert list((tmp_path / "run" / "checkpoint").glob("step=4.ckpt")), "what can be resumed from must stay"
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert "result.json" not in names
    assert not any(name.endswith(".tmp") for name in names)


@pytest.mark.slow
def test_a_disk_that_fills_up_while_training(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: metrics.csv or a checkpoint meets it first."""
    overrides = "+experiment=demo model=tiny trainer=cpu steps=300 checkpoint_every=5 dataset.generator.eval=4"
    result = subprocess.run(
        ["bash", "-c", f"ulimit -f 12; exec {sys.executable} -m tfew.train {overrides} run_dir={tmp_path}/run"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "cannot be written (File too large): choose another place with runs= or run_dir=." in result.stderr
    assert f"{tmp_path}/run" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_sweep_has_no_one_folder(tmp_path: Path) -> None:
    result = run_command(
        "tfew.train", "-m", "+experiment=demo", "few_shot_seed=0,1", f"run_dir={tmp_path}/run", f"runs={tmp_path}/runs"
    )
    assert result.returncode == 1
    assert "run is the folder of one run, and this is a sweep (-m): use runs= instead." in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_logger_that_cannot_start(train_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import pytorch_lightning.loggers as loggers

    class NotLoggedIn:
        def __init__(self, **_: Any) -> None:
            raise RuntimeError("No API key configured.")

    monkeypatch.setattr(loggers, "WandbLogger", NotLoggedIn)
    with pytest.raises(UserError, match=r"WandbLogger cannot start: No API key configured. \(wandb needs a login or"):
        train_tiny("logger=wandb")


def test_gpu_where_there_is_none(train_tiny: Callable[..., Any]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError, match="trainer=gpu, but torch finds no GPU here"):
        train_tiny("trainer=gpu")


def test_promptsource_is_missed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from tfew.data import templates

    templates._promptsource.cache_clear()
    monkeypatch.setitem(sys.modules, "promptsource.templates", None)
    with pytest.raises(UserError, match=r"promptsource cannot be imported .*make env, or pip install --no-deps"):
        templates.load_templates("super_glue/rte")
    templates._promptsource.cache_clear()
