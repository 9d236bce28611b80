"""The configuration as a whole: composing it in code, checking it before anything heavy starts, naming a run."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tfew.errors import UserError, unknown

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

CHOICES = {
    "few_shot": ("official", "files", "draw"),
    "templates.use": ("original", "all", "single"),
    "templates.eval": ("each", "random"),
    "score.norm": ("token", "sum"),
    "model.dtype": ("auto", "bfloat16", "float32"),
    "fidelity.loss_mean": ("step", "micro_batch"),
}
AT_LEAST = {
    "shots": 1,
    "steps": 1,
    "batch_size": 1,
    "micro_batch_size": 1,
    "eval_batch_size": 1,
    "max_tokens": 2,
    "checkpoint_every": 1,
    "workers": 0,
    "few_shot_seed": 0,
    "seed": 0,
    "eval_seed": 0,
}
FLAGS = ("resume", "overwrite")
FOLDERS = ("data_dir", "init_adapter", "adapter")

# settings that change where and how fast a run goes, not what comes out
NOT_IDENTITY = ("runs", "run_dir", "resume", "overwrite", "logger", "workers", "trainer.devices")


def compose(*overrides: str, config_name: str = "train") -> DictConfig:
    """The configuration that these command-line overrides give, for use from Python."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra_compose(config_name, overrides=list(overrides))


def check(config: DictConfig) -> None:
    """Raises UserError for a value that cannot work; reads no data and imports nothing heavy."""
    for key, good in CHOICES.items():
        if (value := OmegaConf.select(config, key)) not in good:
            raise unknown("value", value, good, f"{key}=")
    for key, least in AT_LEAST.items():
        _check_number(key, OmegaConf.select(config, key), least)
    for key in FLAGS:
        if not isinstance(value := OmegaConf.select(config, key), bool):
            raise UserError(f"{key}={value!r} is neither true nor false.")
    if not 0 <= config.warmup_ratio < 1:
        raise UserError(f"warmup_ratio={config.warmup_ratio} is not in [0, 1).")
    if config.resume and config.overwrite:
        raise UserError("resume=true and overwrite=true contradict each other: give one of them.")
    for key in FOLDERS:
        value = OmegaConf.select(config, key)
        if value is not None and not Path(value).exists():
            raise UserError(f"{key}={value} does not exist.")


def run_name(config: DictConfig, method: str | None = None) -> str:
    """experiment-model-method-loss-sSEED-HASH; equal settings give equal names."""
    parts = [config.name, config.model.name, method or method_name(config), config.loss.name]
    return "-".join([*parts, f"s{config.few_shot_seed}", settings_hash(config)])


def run_path(config: DictConfig, name: str) -> Path:
    return Path(config.run_dir) if config.run_dir is not None else Path(config.runs) / name


def method_name(config: DictConfig) -> str:
    return str(config.method.name)


def settings_hash(config: DictConfig) -> str:
    settings = json.dumps(identity(config), sort_keys=True)
    return hashlib.sha256(settings.encode()).hexdigest()[:8]


def identity(config: DictConfig) -> dict[str, Any]:
    """The resolved settings without those that do not change the result."""
    plain = resolved(config)
    for key in NOT_IDENTITY:
        *parents, last = key.split(".")
        node = plain
        for parent in parents:
            node = node[parent]
        node.pop(last, None)
    return plain


def resolved(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Dotted keys whose values differ, as "key: theirs there, ours here"."""
    flat_ours, flat_theirs = dict(_flatten(ours)), dict(_flatten(theirs))
    keys = sorted(flat_ours.keys() | flat_theirs.keys())
    return [
        f"{key}: {flat_theirs.get(key)} there, {flat_ours.get(key)} here"
        for key in keys
        if flat_ours.get(key) != flat_theirs.get(key)
    ]


def _flatten(node: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if not isinstance(node, dict):
        yield prefix, node
        return
    for key, value in node.items():
        yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))


def _check_number(key: str, value: object, least: int) -> None:
    if value is None and key == "micro_batch_size":
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{key}={value} is not a whole number of at least {least}.")
