"""The identity of a run: its name and folder, derived from settings, and which settings do not change a result."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tfew.config import ADAPTERS, IN_PACKAGE, local_path, resolved
from tfew.errors import UserError
from tfew.files.checksums import file_sha256
from tfew.files.hub_adapter import local_adapter
from tfew.runs.model_source import is_gguf, model_source
from tfew.runs.noted import is_noted

# settings that change where and how fast a run is computed, not its result
NOT_IDENTITY = (
    "runs", "run_dir", "resume", "overwrite", "logger", "workers", "engine", "memory_gb", "train_together",
    "trust_remote_code", "rerun", "folds_at_once",
)  # fmt: skip
# settings added later: dotted key -> the value that it was introduced with, which does not change a run's name
INTRODUCED: Mapping[str, Any] = {
    "method.targets": None, "method.partial": False, "base": "pinned", "model.tokenizer_revision": "main",
    "model.gguf_file": None, "model.package": None, "model.config": None,
    "score.eos": "auto", "score.shortlist": None, "prompt.chat": False,
    "labels": None, "list_labels": None, "dataset.lists": {}, "baselines": True, "tune": False,
    "multi_label": "auto", "separator": None, "dataset.answers": ["no", "yes"], "dataset.held_out.grouped": True,
}  # fmt: skip
FORMER = Path(__file__).with_name("former_settings.yaml")  # removed settings: class -> argument -> its default
SAME_NUMBERS = ("ddp", "fsdp")  # values of trainer.strategy with which many devices give the result of one
WEIGHT_HASHES = "weights_sha256"  # key beside the settings in config.yaml: hashes of adapters and shipped models


def run_name(config: DictConfig, method: str | None = None) -> str:
    """experiment-model-method-loss-sSEED-HASH; equal settings give equal names.

    Raises UserError if it would not be a valid folder name: settings may come from adapters, too.
    """
    parts = [config.name, model_name(config), method or method_name(config), config.loss.name]
    name = "-".join([*map(str, parts), f"s{config.few_shot_seed}", settings_hash(config)])
    if Path(name).name != name or "\0" in name or "\\" in name:
        raise UserError(f"{name!r}, made of the settings' names, is no name for a folder: set run_dir=.")
    return name


def model_name(config: DictConfig) -> str:
    """`model=`'s name, or if `model.path` is another checkpoint, its last name part.

    For a GGUF file, its name without the extension.
    """
    source = model_source(config)
    if source.path is None or source.is_named:
        return str(config.model.name)
    if source.gguf_file is not None or is_gguf(source.path):
        return Path(source.gguf_file or source.path).stem
    return Path(source.path).name


def is_known_checkpoint(config: DictConfig) -> bool:
    """Whether `model.path` is a Hub id and `model.arch` or `model.config` its shape, as in configs/model."""
    source = model_source(config)
    path, has_shape = source.path, config.model.arch is not None or config.model.get("config") is not None
    on_hub = path is not None and not path.startswith(IN_PACKAGE) and not Path(path).is_dir()
    return on_hub and has_shape and source.is_named


def run_path(config: DictConfig, name: str) -> Path:
    return Path(config.run_dir) if config.run_dir is not None else Path(config.runs) / name


def method_name(config: DictConfig) -> str:
    return str(config.method.name)


def settings_hash(config: DictConfig) -> str:
    settings = json.dumps(identity(resolved_with_hashes(config)), sort_keys=True)
    return hashlib.sha256(settings.encode()).hexdigest()[:8]


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings (`resolved_with_hashes`) that can change the result."""
    kept = {key: value for key, value in settings.items() if key not in NOT_IDENTITY}
    if "trainer" in kept:
        left_out = ["devices", *(["strategy"] if kept["trainer"].get("strategy") in SAME_NUMBERS else [])]
        kept["trainer"] = {key: value for key, value in kept["trainer"].items() if key not in left_out}
    if "method" in kept:
        kept["method"] = with_former_settings(kept["method"])
    return _without_introduced(kept)


def with_former_settings(method: Mapping[str, Any]) -> dict[str, Any]:
    """The section `method`, with arguments that its class had in earlier versions, at their defaults then."""
    return {**_former().get(str(method.get("_target_")), {}), **method}


@cache
def _former() -> dict[Any, Any]:
    loaded = OmegaConf.to_container(OmegaConf.load(FORMER))
    assert isinstance(loaded, dict)
    return loaded


def _without_introduced(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Removes, at any depth, later settings that have their introduced value, values that runs note, and groups that
    become empty.
    """
    kept = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            value = _without_introduced(value, f"{name}.")
            if not value:
                continue
        if not is_noted(name) and (name not in INTRODUCED or value != INTRODUCED[name]):
            kept[key] = value
    return kept


def resolved_with_hashes(config: DictConfig) -> dict[str, Any]:
    """The resolved settings, with the hash of any adapter they name: its path does not identify its content.

    The same for a model in this package, which the next version may replace, and for a GGUF file.
    """
    hashes = {}
    if (sha256 := model_source(config).gguf_sha256()) is not None:
        hashes["model.path"] = sha256
    if (config.model.path or "").startswith(IN_PACKAGE):
        shipped = Path(local_path(config.model.path)) / "model.safetensors"
        if shipped.is_file():
            hashes["model.path"] = file_sha256(shipped)
    for key in ADAPTERS:
        folder = OmegaConf.select(config, key)
        weights = sorted(local_adapter(folder).glob("adapter*.safetensors")) if folder is not None else []
        if weights:
            hashes[key] = file_sha256(weights[0])
    return {**resolved(config), **({WEIGHT_HASHES: hashes} if hashes else {})}


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Dotted keys whose values differ, as "key: theirs there, ours here"."""
    flat_ours, flat_theirs = dict(flatten(ours)), dict(flatten(theirs))
    keys = sorted(flat_ours.keys() | flat_theirs.keys())
    return [
        f"{key}: {flat_theirs.get(key)} there, {flat_ours.get(key)} here"
        for key in keys
        if flat_ours.get(key) != flat_theirs.get(key)
    ]


def flatten(node: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted keys and values of nested settings."""
    if not isinstance(node, dict):
        yield prefix, node
        return
    for key, value in node.items():
        yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
