"""An untrusted run folder: its content is treated as data, and does not lead outside."""

import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.commands import run_command
from tfew.cli import command, with_run_settings
from tfew.config import CONFIGS, compose
from tfew.errors import UserError
from tfew.evaluate import evaluate
from tfew.files.checksums import check_checkpoint
from tfew.models.base_check import check_chosen_base
from tfew.models.foreign_adapters import read_tensors, write_tensors
from tfew.prediction.predictor import Predictor
from tfew.runs.identity import resolved_with_hashes
from tfew.runs.run_folder import few_shot_path, open_run, saved_settings

_ = command  # Hydra's own resolvers are registered with it


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tfew.train import train

    root = tmp_path_factory.mktemp("honest")
    settings = ("+experiment=demo", "dataset=mini/complaint", "model=tiny", "trainer=cpu", "steps=1", "shots=8")
    record = train(compose(*settings, "dataset.generator.eval=4", f"runs={root}"))
    return root / record.name


@pytest.fixture
def sent(run: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """The run with a `config.yaml` that somebody has changed."""

    def make(change: Callable[[dict[str, Any]], None]) -> Path:
        folder = tmp_path / "sent"
        shutil.copytree(run, folder)
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        change(settings)
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        return folder

    return make


def evaluated(folder: Path, tmp_path: Path, *more: str) -> dict[str, Any]:
    """The record's text, after `python -m tfew.evaluate adapter=FOLDER`."""
    overrides = [f"adapter={folder}", f"runs={tmp_path}/runs", "trainer=cpu", *more]
    config = with_run_settings(compose(*overrides, config_name="evaluate"), overrides)
    record = evaluate(config)
    found: dict[str, Any] = json.loads((tmp_path / "runs" / record.name / "result.json").read_text())
    return found


def test_the_honest_one_works(sent: Any, tmp_path: Path) -> None:
    assert evaluated(sent(lambda settings: None), tmp_path)["counts"]["rows"] == 4


def test_secrets_of_the_environment_are_out_of_reach(sent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hf_12345")

    def ask(settings: dict[str, Any]) -> None:
        settings["dataset"]["prompts"][0]["jinja"] = "${oc.env:SECRET_TOKEN} {{ text }}"

    folder = sent(ask)
    with pytest.raises(UserError, match=r"config.yaml refers to something outside it"):
        with_run_settings(compose(f"adapter={folder}", config_name="evaluate"), [])
    with pytest.raises(UserError, match=r"refers to something outside it"):
        Predictor.load(folder)


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "a/b", ".."])
def test_no_folder_outside_the_runs_is_written(name: str, sent: Any, tmp_path: Path) -> None:
    folder = sent(lambda settings: settings["dataset"].update(name=name))
    before = sorted(path for path in tmp_path.rglob("*") if "runs" not in path.parts)
    if name == "..":  # with what else makes up the name, it is an ordinary one
        evaluated(folder, tmp_path)
    else:
        with pytest.raises(UserError, match=r"is no name for a folder"):
            evaluated(folder, tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if "runs" not in path.parts) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [("official_name", "../../../victim"), ("official_name", "/victim"), ("few_shot_seed", "../../../0")],
)
def test_no_file_outside_the_run_is_removed_or_written(key: str, value: str, sent: Any, tmp_path: Path) -> None:
    """Starting a run afresh removes the old one's shots, wherever its settings say they are."""

    def change(settings: dict[str, Any]) -> None:
        (settings["dataset"] if key == "official_name" else settings)[key] = value

    folder = sent(change)
    (folder / "result.json").unlink()
    settings = saved_settings(folder)
    assert settings is not None
    kind = f"{settings['shots']}_shot"
    place = (
        folder / "few_shot" / settings["dataset"]["official_name"] / kind / f"{settings['few_shot_seed']}_seed.jsonl"
    )
    if key == "official_name" and value.startswith(".."):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("mine")
    with pytest.raises(UserError, match=r"in the settings of this run, is no name for a file or folder"):
        few_shot_path(folder, settings["dataset"]["official_name"], settings["shots"], settings["few_shot_seed"])
    config = compose("+experiment=demo", "dataset=mini/complaint", f"run_dir={folder}")
    with pytest.raises(UserError, match=r"is no name for a file or folder"):
        open_run(folder, resolved_with_hashes(config), resume=False)
    assert not value.startswith("..") or key != "official_name" or place.read_text() == "mine"


@pytest.mark.parametrize("place", ["config.yaml", "adapter.json"])
def test_no_class_of_a_strangers_choice_is_called(place: str, sent: Any, tmp_path: Path) -> None:
    """`os.mkdir` as the method, optimiser and logger of the run."""
    trace = tmp_path / "called"

    def change(settings: dict[str, Any]) -> None:
        if place == "config.yaml":
            for group in ("method", "optimizer", "logger"):
                settings[group] = {**settings[group], "_target_": "os.mkdir", "path": str(trace)}

    folder = sent(change)
    if place == "adapter.json":
        description = json.loads((folder / "adapter.json").read_text())
        description["method"] = {"name": "ia3", "_target_": "os.mkdir", "path": str(trace)}
        del description["sha256"]
        (folder / "adapter.json").write_text(json.dumps(description))
        with pytest.raises(UserError, match=r"names a method that this project does not have: 'os.mkdir'"):
            evaluated(folder, tmp_path)
    else:
        evaluated(folder, tmp_path)
    assert not trace.exists()


def test_templates_of_the_settings_are_run_in_the_sandbox(sent: Any, tmp_path: Path) -> None:
    def change(settings: dict[str, Any]) -> None:
        settings["dataset"]["prompts"] = [
            {"name": "w", "answer_choices": "a ||| b", "jinja": "{{ ''.__class__.__mro__[1].__subclasses__() }}"}
        ]

    with pytest.raises(UserError, match=r"unsafe"):
        evaluated(sent(change), tmp_path)


class Trace:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["model.path", "model.tokenizer"])
def test_a_pickle_as_the_runs_base_model_is_not_run(name: str, sent: Any, run: Path, tmp_path: Path) -> None:
    base, trace = tmp_path / "base", tmp_path / "called"
    base.mkdir()
    torch.save({"shared.weight": Trace(trace)}, base / "pytorch_model.bin")
    (base / "config.json").write_text(json.dumps({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}))
    (base / "evil.py").write_text(f"import os\nos.mkdir({str(trace)!r})\n")
    (base / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": [None, "evil.Tokenizer"]}}))
    folder = sent(lambda settings: settings["model"].update({name.partition(".")[2]: str(base)}))
    if name == "model.path":
        with pytest.raises(UserError, match=r"cannot be loaded"):
            evaluated(folder, tmp_path)
    else:
        evaluated(folder, tmp_path)  # with an ordinary tokenizer: code that it names is not looked at
    assert not trace.exists()


def test_code_that_a_model_brings_is_run_where_the_command_line_names_it_and_nowhere_else(
    sent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, trace = tmp_path / "base", tmp_path / "called"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}))
    (base / "own.py").write_text(
        "import os\nfrom transformers import PretrainedConfig\n"
        f"os.makedirs({str(trace)!r}, exist_ok=True)\n"
        "class OwnConfig(PretrainedConfig):\n    model_type = 'own'\n    is_encoder_decoder = True\n"
    )
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # who is asked says yes: nobody is
    folder = sent(
        lambda settings: settings.update(trust_remote_code=str(base), model={**settings["model"], "path": str(base)})
    )
    with pytest.raises(UserError, match=r"base brings Python code of its own, which is not run: read it, and if you"):
        evaluated(folder, tmp_path)
    for trusted in ("bigscience/T0_3B", str(tmp_path)):
        with pytest.raises(UserError, match=rf"trust_remote_code={trusted} must name the model"):
            evaluated(folder, tmp_path, f"trust_remote_code={trusted}")
    assert not trace.exists()
    with pytest.raises(UserError, match=r"cannot be loaded"):  # it has no weights
        evaluated(folder, tmp_path, f"trust_remote_code={base}")
    assert trace.exists()


def test_settings_with_a_part_missing_are_told_in_a_sentence(sent: Any, tmp_path: Path) -> None:
    folder = sent(lambda settings: settings.pop("score"))
    result = run_command("tfew.evaluate", f"adapter={folder}", f"runs={tmp_path}/runs")
    assert result.returncode == 1
    assert "The settings are incomplete or of a wrong type: Missing key score." in result.stderr
    assert "Traceback" not in result.stderr


def repacked(path: Path, compression: int, extra: Mapping[str, bytes]) -> Path:
    """The same archive, packed in this way, with more entries."""
    target = path.with_name("repacked.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        for name, content in extra.items():
            new.writestr(name, content)
    return target


def test_an_archive_leads_out_of_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    write_tensors(folder / "vectors.pt", {"k": torch.ones(3)})
    path = repacked(folder / "vectors.pt", zipfile.ZIP_STORED, {"vectors/../../escaped": b"mine"})
    assert torch.equal(read_tensors(path)["k"], torch.ones(3))
    for name in ("../escaped", "../../escaped", f"{tmp_path}/escaped"):
        path = repacked(folder / "vectors.pt", zipfile.ZIP_STORED, {name: b"mine"})
        with pytest.raises(UserError, match=r"none of it was run"):
            read_tensors(path)
    assert {file.name for file in tmp_path.rglob("*") if file.is_file()} == {"vectors.pt", "repacked.pt"}


@pytest.mark.parametrize("read", [read_tensors, check_checkpoint])
def test_a_small_archive_does_not_become_large(read: Callable[[Path], object], tmp_path: Path) -> None:
    write_tensors(tmp_path / "vectors.pt", {"k": torch.zeros(2**22)})
    read(tmp_path / "vectors.pt")
    path = repacked(tmp_path / "vectors.pt", zipfile.ZIP_DEFLATED, {})
    assert path.stat().st_size < 100_000
    assert torch.load(path, weights_only=True)["k"].shape == (2**22,)  # which torch would read
    with pytest.raises(UserError, match=r"it would unpack to 16,77\d,\d\d\d bytes"):
        read(path)


@pytest.mark.slow
def test_no_secret_of_the_environment_is_written_or_said(tmp_path: Path) -> None:
    """Everything that a run, its card, its report and its predictions leave, and all that they print."""
    names = (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_TOKEN",
        "MY_PASSWORD",
    )
    secrets = {name: f"secret{number:034}" for number, name in enumerate(names)}
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"row {i} is {'ab'[i % 2]},{'ab'[i % 2]}\n" for i in range(24)))
    run = tmp_path / "runs" / "run"
    small = ("model=tiny", "trainer=cpu")
    local = (
        "+experiment=local",
        f"data={rows}",
        "text=text",
        "label=label",
        *small,
        "folds=2",
        "steps=2",
        "batch_size=4",
    )
    commands = [
        ("train", *local, f"run_dir={run}", "logger=wandb"),
        ("predict", f"adapter={run}", f"input={rows}", f"output={tmp_path}/labels.jsonl", "trainer=cpu"),
        ("predict", f"adapter={run}", f"input={tmp_path}/none.csv", f"output={tmp_path}/none.jsonl"),  # a failure
        ("convert", f"adapter={run}", "to=card"),
        ("convert", f"adapter={run}", "to=peft", f"output={tmp_path}/peft"),
        ("paper", "report=true", f"runs={tmp_path}/runs"),
    ]
    environment = {**secrets, "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
    said = ""
    for module, *arguments in commands:
        result = run_command(f"tfew.{module}", *arguments, **environment)
        assert result.returncode == int("none.csv" in " ".join(arguments)), result.stderr
        said += result.stdout + result.stderr
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"result.json", "README.md", "report.html", "labels.jsonl", "adapter.json"} <= {path.name for path in files}
    assert any(path.suffix == ".wandb" for path in files)
    for secret in secrets.values():
        assert secret not in said
        assert not [path for path, data in files.items() if secret.encode() in data]


def chosen(folder: Path, *more: str) -> None:
    overrides = [f"adapter={folder}", *more]
    with_run_settings(compose(*overrides, config_name="evaluate"), overrides)


def choose(**changed: Any) -> Callable[[dict[str, Any]], None]:
    return lambda settings: settings["model"].update(changed)


def test_which_base_model_it_chooses_is_said_before_it_is_loaded(
    sent: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("tfew"), "propagate", True)
    caplog.set_level(logging.INFO, "tfew")
    (tmp_path / "theirs").mkdir()
    folder = sent(choose(path=str(tmp_path / "theirs"), name="mini_t0"))
    chosen(folder)
    assert f"{folder} chooses its base model: {tmp_path}/theirs of this machine (model.path= names" in caplog.text
    caplog.clear()
    chosen(folder, "model=mini_t0")
    chosen(folder, "model.path=pkg://mini_t0/checkpoint")
    assert "chooses" not in caplog.text


def test_one_of_the_projects_own_list_is_no_news(
    run: Path, sent: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(logging.getLogger("tfew"), "propagate", True)
    caplog.set_level(logging.INFO, "tfew")
    chosen(run)
    chosen(sent(choose(name="mini_t0", path="pkg://mini_t0/checkpoint")))
    assert "chooses" not in caplog.text
    shutil.rmtree(tmp_path / "sent")
    # a list of the sender's own, beside the settings
    (tmp_path / "theirs.yaml").write_text("path: pkg://../evil\n")
    there = os.path.relpath(tmp_path / "theirs", CONFIGS / "model")
    with pytest.raises(UserError, match="evil/tokenizer cannot be loaded"):  # nothing answers here
        chosen(sent(choose(name=there, path="pkg://../evil", tokenizer="evil/tokenizer")))
    assert "chooses its base model: pkg://../evil of this machine" in caplog.text
    assert "chooses its tokenizer: evil/tokenizer of the Hub" in caplog.text


def test_a_base_model_that_never_ends_is_not_read(sent: Any, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.mkfifo(theirs / "config.json")
    with pytest.raises(UserError, match=r"chooses the base model .*theirs, where config.json is no regular file"):
        chosen(sent(choose(path=str(theirs))))


def test_an_adapter_of_the_hub_chooses_no_folder_of_this_machine(sent: Any, tmp_path: Path) -> None:
    config = compose(config_name="evaluate")
    config.model.path = str(tmp_path)
    with pytest.raises(UserError, match=r"hub:somebody/adapter chooses a local base model, .*model.path="):
        check_chosen_base(config, "hub:somebody/adapter")
