"""The configuration as a whole: composing it in code, checking it before anything heavy starts, naming a run."""

import copy
import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tfew.bounds import NAME_BYTES
from tfew.errors import UserError, unknown
from tfew.files.checksums import file_sha256

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
IN_PACKAGE = "pkg://"  # what begins so lies in this package, wherever that is installed: the same on every machine

CHOICES = {
    "few_shot": ("official", "files", "draw", "all"),
    "templates.use": ("original", "all", "single"),
    "templates.eval": ("each", "random"),
    "score.norm": ("token", "sum", "char", "byte", "pmi"),
    "score.method": ("direct", "channel", "calibrated"),
    "icl.mode": ("none", "concat", "ensemble"),
    "icl.combine": ("probability", "vote"),
    "icl.too_long": ("refuse", "drop"),
    "model.arch.init": ("t5", "look_up"),
    "model.dtype": ("auto", "bfloat16", "float32"),
    "fidelity.loss_mean": ("step", "micro_batch"),
    "fidelity.field_order": ("settings", "table"),
    "trainer.accelerator": ("auto", "cpu", "gpu"),
    "trainer.strategy": ("ddp", "fsdp", "deepspeed_3"),
    "engine": ("fast", "plain"),
}
AT_LEAST = {
    "shots": 1,
    "folds": 2,
    "steps": 1,
    "batch_size": 1,
    "micro_batch_size": 1,
    "eval_batch_size": 1,
    "max_tokens": 2,
    "checkpoint_every": 1,
    "length_window": 1,
    "workers": 0,
    "few_shot_seed": 0,
    "seed": 0,
    "eval_seed": 0,
    "eval_rows": 1,
    "icl.shots": 1,
    "icl.order_seed": 0,
}
MAY_BE_NULL = (
    "model.arch.init",
    "fidelity.field_order",
    "micro_batch_size",
    "eval_rows",
    "shots",
    "folds",
    "memory_gb",
    "icl.shots",
)
GROUPS = ("icl",)  # of settings that not every command has
POSITIVE = ("clip_norm", "optimizer.lr", "memory_gb")
NOT_NEGATIVE = ("loss.lm", "loss.ul", "loss.ln", "fidelity.unlikely_epsilon", "optimizer.weight_decay")
FLAGS = (
    "trainer.autocast",
    "resume",
    "overwrite",
    "json",
    "measure",
    "fidelity.autocast",
    "fidelity.limit_train_templates",
)
ADAPTERS = ("init_adapter", "adapter")
MODEL_FILES = ("model.path", "model.tokenizer")
PATHS = ("runs", "run_dir", "data_dir", "data", "trust_remote_code", *ADAPTERS, *MODEL_FILES)
OTHER_PATHS = ("input", "output", "adapters", "manage")  # of some commands, which make them whole themselves

# settings that change where and how fast a run goes, not what comes out
NOT_IDENTITY = (
    "runs", "run_dir", "resume", "overwrite", "logger", "workers", "engine", "memory_gb", "train_together",
    "trust_remote_code",
)  # fmt: skip
SAME_NUMBERS = ("ddp", "fsdp")  # values of trainer.strategy with which many devices compute what one computes
# Hydra's note that a file of configs/hydra/launcher has the name of a launcher's own declaration: both are wanted
LAUNCHER_NOTE = "(?s).*is validated against ConfigStore schema with the same name"
WEIGHT_HASHES = "weights_sha256"  # beside the settings in config.yaml: which weights adapters and shipped models were


def compose(*overrides: str, config_name: str = "train") -> DictConfig:
    """The configuration that these command-line overrides give, for use from Python."""
    from hydra import compose as hydra_compose

    with hydra_at_work():
        return hydra_compose(config_name, overrides=list(overrides))


@contextmanager
def hydra_at_work() -> Iterator[None]:
    """Inside, Hydra composes from this project's configurations; in a command it is at work already, for that."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    state = GlobalHydra.instance()
    outer, state.hydra = state.hydra, None  # it knows only one of itself
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=LAUNCHER_NOTE)
            yield
    finally:
        state.hydra = outer


def checked(config: DictConfig) -> DictConfig:
    """A copy with paths made whole (`~`, numbers read as text); raises UserError for a value that cannot work.

    Reads no data and imports nothing heavy: a mistake is answered at once.
    """
    config = copy.deepcopy(config)
    for key in PATHS:
        if (value := OmegaConf.select(config, key)) is not None:
            OmegaConf.update(config, key, os.path.expanduser(str(value)))
    for key in ("name", "model.name"):
        OmegaConf.update(config, key, str(OmegaConf.select(config, key)))
    _check_values(config)
    _check_combinations(config)
    _check_paths(config)
    return config


def local_path(path: str) -> str:
    """The folder that a `pkg://` path means; any other path as it is."""
    if not path.startswith(IN_PACKAGE):
        return path
    return str(Path(__file__).resolve().parent / path.removeprefix(IN_PACKAGE))


def _check_values(config: DictConfig) -> None:
    absent = tuple(f"{group}." for group in GROUPS if OmegaConf.select(config, group) is None)
    for key, good in CHOICES.items():
        if key.startswith(absent):
            continue
        value = OmegaConf.select(config, key)
        if value not in good and not (value is None and key in MAY_BE_NULL):
            raise unknown("value", value, good, f"{key}=")
    for key, least in AT_LEAST.items():
        if key.startswith(absent):
            continue
        value = OmegaConf.select(config, key)
        if not (value is None and key in MAY_BE_NULL) and not _is_number(value, int, least):
            raise UserError(f"{key}={value} is not a whole number of at least {least}.")
    for key in POSITIVE:
        value = OmegaConf.select(config, key)
        if not (value is None and key in MAY_BE_NULL) and (not _is_number(value, float, 0) or value == 0):
            raise UserError(f"{key}={value} is not a number above 0.")
    for key in NOT_NEGATIVE:
        if not _is_number(value := OmegaConf.select(config, key), float, 0):
            raise UserError(f"{key}={value} is not a number of at least 0.")
    if not _is_number(config.warmup_ratio, float, 0) or config.warmup_ratio >= 1:
        raise UserError(f"warmup_ratio={config.warmup_ratio} is not in [0, 1).")
    devices = config.trainer.devices
    if devices != "auto" and not _is_number(devices, int, 1):
        raise UserError(f"trainer.devices={devices} is neither auto nor a whole number of at least 1.")
    share = OmegaConf.select(config, "validation")
    if share is not None and not (_is_number(share, float, 0) and 0 < share < 1):
        raise UserError(f"validation={share} is not a share between 0 and 1, such as 0.25.")
    for key in FLAGS:
        if not isinstance(value := OmegaConf.select(config, key, default=False), bool):
            raise UserError(f"{key}={value!r} is neither true nor false.")


def _check_combinations(config: DictConfig) -> None:
    if config.resume and config.overwrite:
        raise UserError("resume=true and overwrite=true contradict each other: give one of them.")
    if config.get("folds") is not None and config.get("validation") is not None:
        raise UserError(
            "folds= tries on every row, validation= on a share of them: give one (folds=null validation=0.25)."
        )
    if not (config.loss.lm or config.loss.ul or config.loss.ln):
        raise UserError("loss.lm, loss.ul and loss.ln are all 0: nothing would be trained.")
    if config.score.method == "channel" and config.score.norm == "pmi":
        raise UserError("score.norm=pmi is of choices, and score.method=channel scores the input: use another norm.")
    if config.templates.use == "single" and config.templates.name is None:
        raise UserError(
            "templates=single needs templates.name=, the template's name (python -m tfew.preview lists them)."
        )
    if config.templates.use != "single" and config.templates.name is not None:
        raise UserError(
            f"templates.name={config.templates.name!r} goes with templates=single, not {config.templates.use}."
        )
    named = [OmegaConf.select(config, key) for key in MODEL_FILES]
    if (trusted := config.get("trust_remote_code")) is not None and trusted not in named:
        raise UserError(
            f"trust_remote_code={trusted} is to name the model whose own code may be run, and here are"
            f" {' and '.join(f'{key}={value}' for key, value in zip(MODEL_FILES, named, strict=True))}."
        )


def _check_paths(config: DictConfig) -> None:
    for key in (*PATHS, *OTHER_PATHS):
        path = str(OmegaConf.select(config, key, default=""))
        if "\0" in path or any(len(os.fsencode(part)) > NAME_BYTES for part in Path(path).parts):
            shown = path if len(path) < 100 else f"{path[:100]}..."
            raise UserError(f"{key}={shown} is no path: a name in it has a NUL, or more than {NAME_BYTES} bytes.")
    if config.data_dir is not None and not Path(config.data_dir).is_dir():
        raise UserError(f"data_dir={config.data_dir} does not exist.")
    for key in ADAPTERS:
        value = OmegaConf.select(config, key)
        if value is not None and not Path(value).is_dir():
            reason = "is a file, not a run or adapter folder" if Path(value).exists() else "does not exist"
            raise UserError(f"{key}={value} {reason}.")
    # a folder is told from a Hub id by its look, so that a misspelt one is not asked of the Hub
    for key in MODEL_FILES:
        value = OmegaConf.select(config, key)
        looks_local = value is not None and (value.startswith((".", "/")) or value.count("/") > 1)
        if looks_local and not Path(local_path(value)).is_dir():
            raise UserError(f"{key}={value}: there is no such folder.")


def run_name(config: DictConfig, method: str | None = None) -> str:
    """experiment-model-method-loss-sSEED-HASH; equal settings give equal names.

    Raises UserError where it would not be a folder's name: settings come with adapters, too.
    """
    parts = [config.name, model_name(config), method or method_name(config), config.loss.name]
    name = "-".join([*map(str, parts), f"s{config.few_shot_seed}", settings_hash(config)])
    if Path(name).name != name or "\0" in name or "\\" in name:
        raise UserError(f"{name!r}, made of the settings' names, is no name for a folder: say run_dir=.")
    return name


def model_name(config: DictConfig) -> str:
    """`model=`'s name, or where `model.path` says another checkpoint than it, that one's last name part."""
    name, path = str(config.model.name), config.model.path
    if path is None or _known_path(name) == path:
        return name
    return Path(path).name


def is_known_checkpoint(config: DictConfig) -> bool:
    """Whether `model.path` is on the Hub and `model.arch` is its shape: both as the file in configs/model has them."""
    path = config.model.path
    on_hub = path is not None and not path.startswith(IN_PACKAGE) and not Path(path).is_dir()
    return on_hub and config.model.arch is not None and _known_path(str(config.model.name)) == path


@cache
def _known_path(name: str) -> str | None:
    """`model.path` of a file in configs/model; each says it itself, so that Hydra need not be asked."""
    file = CONFIGS / "model" / f"{name}.yaml"
    return OmegaConf.load(file).path if file.is_file() else None


def run_path(config: DictConfig, name: str) -> Path:
    return Path(config.run_dir) if config.run_dir is not None else Path(config.runs) / name


def method_name(config: DictConfig) -> str:
    return str(config.method.name)


def settings_hash(config: DictConfig) -> str:
    settings = json.dumps(identity(resolved_with_hashes(config)), sort_keys=True)
    return hashlib.sha256(settings.encode()).hexdigest()[:8]


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings (`resolved_with_hashes`) without those that do not change the result."""
    kept = {key: value for key, value in settings.items() if key not in NOT_IDENTITY}
    if "trainer" in kept:
        left_out = ["devices", *(["strategy"] if kept["trainer"].get("strategy") in SAME_NUMBERS else [])]
        kept["trainer"] = {key: value for key, value in kept["trainer"].items() if key not in left_out}
    return kept


def resolved_with_hashes(config: DictConfig) -> dict[str, Any]:
    """The resolved settings, and the hash of any adapter they name: its path alone does not say what is in it.

    Nor does that of a model in this package, which the next version may bring anew.
    """
    hashes = {}
    if (config.model.path or "").startswith(IN_PACKAGE):
        shipped = Path(local_path(config.model.path)) / "model.safetensors"
        if shipped.is_file():
            hashes["model.path"] = file_sha256(shipped)
    for key in ADAPTERS:
        folder = OmegaConf.select(config, key)
        weights = sorted(Path(folder).glob("adapter*.safetensors")) if folder is not None else []
        if weights:
            hashes[key] = file_sha256(weights[0])
    return {**resolved(config), **({WEIGHT_HASHES: hashes} if hashes else {})}


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


def _is_number(value: object, kind: type, least: float) -> bool:
    good = (int, float) if kind is float else (int,)
    return isinstance(value, good) and not isinstance(value, bool) and least <= value < float("inf")
