"""The configuration as a whole: composing it in code, and checking it before anything heavy starts."""

import copy
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tfew.environment.versions import require
from tfew.errors import UserError, shorten_list
from tfew.settings import NotNegative, Settings, check_value, settings

PACKAGE = Path(__file__).resolve().parent
# of an installed package its own folder; in a clone, and so in an editable install, the one beside it
CONFIGS = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
IN_PACKAGE = "pkg://"  # what begins so lies in this package, wherever that is installed: the same on every machine
# Hydra's note that a file of configs/hydra/launcher has the name of a launcher's own declaration: both are wanted
LAUNCHER_NOTE = "(?s).*is validated against ConfigStore schema with the same name"

ADAPTERS = ("init_adapter", "adapter")
MODEL_FILES = ("model.path", "model.tokenizer")
PATHS = ("runs", "run_dir", "data_dir", "data", "trust_remote_code", *ADAPTERS, *MODEL_FILES)
OTHER_PATHS = ("input", "output", "adapters", "manage")  # of some commands, which make them whole themselves
LOGGER_EXTRAS = {"WandbLogger": "wandb", "TensorBoardLogger": "tensorboard"}  # what they need, by their class
MAX_NAME_BYTES = 255  # of a file or folder: no file system has longer ones
NOT_WEIGHTS = ("name", "score_norm")  # keys of loss= that are no term's weight


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
    for kind in Settings.__subclasses__():
        settings(kind, config)
    _check_loss(config)
    _check_combinations(config)
    _check_paths(config)
    return config


def check_logger(config: DictConfig) -> None:
    """Before a run is trained; its settings alone may be read where the library that logged it is not."""
    if extra := LOGGER_EXTRAS.get(str(config.logger._target_).rpartition(".")[2]):
        require(f"logger={extra}", extra)


def resolved(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def local_path(path: str) -> str:
    """The folder that a `pkg://` path means; any other path as it is."""
    if not path.startswith(IN_PACKAGE):
        return path
    return str(PACKAGE / path.removeprefix(IN_PACKAGE))


def is_gguf(path: str) -> bool:
    """By its name, as everybody knows such a file."""
    return path.lower().endswith(".gguf")


def _check_loss(config: DictConfig) -> None:
    """All terms of loss=, whatever they are called."""
    weights = {key: value for key, value in config.loss.items() if key not in NOT_WEIGHTS}
    for key, value in weights.items():
        check_value(f"loss.{key}", value, NotNegative)
    if not any(weights.values()):
        raise UserError(f"{', '.join(f'loss.{key}' for key in weights)} are all 0: nothing would be trained.")


def _check_combinations(config: DictConfig) -> None:
    if config.resume and config.overwrite:
        raise UserError("resume=true and overwrite=true contradict each other: give one of them.")
    if config.get("folds") is not None and config.get("validation") is not None:
        raise UserError(
            "folds= tries on every row, validation= on a share of them: give one (folds=null validation=0.25)."
        )
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
        if "\0" in path or any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in Path(path).parts):
            shown = path if len(path) < 100 else f"{path[:100]}..."
            raise UserError(f"{key}={shown} is no path: a name in it has a NUL, or more than {MAX_NAME_BYTES} bytes.")
    if config.data_dir is not None and not Path(config.data_dir).is_dir():
        raise UserError(f"data_dir={config.data_dir} does not exist.")
    for key in ADAPTERS:
        value = OmegaConf.select(config, key)
        if value is not None and not Path(value).is_dir():
            reason = "is a file, not a run or adapter folder" if Path(value).exists() else "does not exist"
            raise UserError(f"{key}={value} {reason}.")
    _check_gguf(config)
    # a folder is told from a Hub id by its look, so that a misspelt one is not asked of the Hub
    for key in MODEL_FILES:
        value = OmegaConf.select(config, key)
        if value is None or (key == "model.path" and is_gguf(value)):
            continue
        looks_local = value.startswith((".", "/")) or value.count("/") > 1
        if looks_local and not Path(local_path(value)).is_dir():
            raise UserError(f"{key}={value}: there is no such folder.")


def _check_gguf(config: DictConfig) -> None:
    path, file = config.model.path, config.model.get("gguf_file")
    if path is not None and is_gguf(path):
        if file is not None:
            raise UserError(
                f"model.gguf_file={file} is of a folder or Hub repository, and model.path={path} is a file."
            )
        if not Path(path).is_file():
            raise UserError(
                f"model.path={path}: there is no such file (one on the Hub is said as model.path=OWNER/NAME"
                f" model.gguf_file={Path(path).name})."
            )
        require(f"model.path={path}", "gguf")
    elif file is not None:
        if path is None:
            raise UserError(f"model.gguf_file={file} needs model.path=, the folder or Hub repository that it is in.")
        folder = Path(local_path(path))
        if folder.is_dir() and not (folder / file).is_file():
            found = (file.relative_to(folder).as_posix() for file in folder.rglob("*.gguf"))
            raise UserError(f"model.gguf_file={file} is not in {path}; there: {shorten_list(found)}.")
        require(f"model.gguf_file={file}", "gguf")
