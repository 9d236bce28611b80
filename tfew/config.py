"""The whole configuration: composing it in code, and checking it before heavy work starts."""

import copy
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tfew.environment.command_line import check_keys
from tfew.environment.config_folder import CONFIGS as CONFIGS
from tfew.environment.config_folder import PACKAGE as PACKAGE
from tfew.environment.versions import require
from tfew.errors import UserError, shorten_list
from tfew.files.hub_adapter import HUB
from tfew.settings import NotNegative, Settings, check_value, settings

log = logging.getLogger(__name__)
IN_PACKAGE = "pkg://"  # prefix of paths inside this package, wherever it is installed: the same on every machine
# Hydra's warning that a file of configs/hydra/launcher has the name of a launcher's own schema: both are wanted
LAUNCHER_NOTE = "(?s).*is validated against ConfigStore schema with the same name"

ADAPTERS = ("init_adapter", "adapter")
MODEL_FILES = ("model.path", "model.tokenizer")
PATHS = ("runs", "run_dir", "data_dir", "data", "trust_remote_code", *ADAPTERS, *MODEL_FILES)
OTHER_PATHS = (
    "input",
    "output",
    "adapters",
    "manage",
    "token",
    "certificate",
    "key",
)  # of some commands, which resolve them themselves
LOGGER_EXTRAS = {"WandbLogger": "wandb", "TensorBoardLogger": "tensorboard"}  # the package each logger needs, by class
MAX_NAME_BYTES = 255  # of a file or folder: no file system allows longer ones
_hydra_lock = threading.RLock()  # its state is the process's
OWN_NAMES = ("text", "label", "labels", "choices", "template")  # which may hold any character
PLAIN = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)  # text that needs no quotation marks in Hydra's grammar
NOT_WEIGHTS = ("name", "score_norm")  # keys of loss= that are not weights of terms


def compose(*overrides: str, config_name: str = "train") -> DictConfig:
    """The configuration that these command-line overrides give, for use from Python."""
    from hydra import compose as hydra_compose

    check_keys(overrides, config_name)
    with hydra_at_work():
        return hydra_compose(config_name, overrides=with_quoted_values(overrides))


def with_quoted_values(overrides: Sequence[str], is_sweep: bool = False) -> list[str]:
    """Overrides with paths and names of a user's table quoted for Hydra's grammar.

    The grammar reserves `=`, `,`, `#`, `(` and others, and has no letters beyond ASCII: a value that it cannot parse,
    or would read differently from the name of an existing file, is put into quotation marks. `is_sweep`: commas
    separate the values of several jobs.
    """
    return [_with_quoted_value(override, is_sweep) for override in overrides]


def _with_quoted_value(override: str, is_sweep: bool) -> str:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    marked, equals, value = override.partition("=")
    key = marked.lstrip("+")
    if not equals or not value or key not in (*PATHS, *OTHER_PATHS, *OWN_NAMES):
        return override
    is_path = key not in OWN_NAMES
    exists = is_path and os.path.exists(os.path.expanduser(value))
    if exists and "${" in value:
        raise UserError(f"{key}={value}: ${{...}} in a setting refers to another setting; rename the file.")
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return marked + equals + as_hydra(value if is_path else _listed(value))
    if parsed.is_sweep_override():
        return override if not is_path or (is_sweep and not exists) else marked + equals + as_hydra(value)
    return marked + equals + as_hydra(value) if exists and str(parsed.value()) != value else override


def _listed(value: str) -> Any:
    """A value that may be a list of texts. Pairs remain a text (`parsed_texts`): Hydra's grammar cannot quote keys."""
    return parsed_texts(value) if value.startswith("[") else value


def parsed_texts(value: Any) -> Any:
    """A list or pairs of texts parsed from YAML text; any other value unchanged."""
    import yaml

    if not isinstance(value, str) or not value.startswith(("[", "{")) or "{{" in value:
        return value
    try:
        return yaml.load(value, yaml.BaseLoader)
    except yaml.YAMLError:
        return value


def as_hydra(value: Any) -> str:
    """The value in Hydra's grammar for overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_hydra, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{as_hydra(key)}:{as_hydra(item)}" for key, item in value.items()) + "}"
    text = str(value)
    if PLAIN.fullmatch(text) and text.lower() not in ("true", "false", "null", "nan", "inf"):
        return text
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return f"'{escaped}'"


@contextmanager
def hydra_at_work() -> Iterator[None]:
    """Inside, Hydra is initialised with this project's configurations; afterwards as the program around it had it."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.version import VersionBase

    with _hydra_lock:
        state, base = GlobalHydra.instance(), VersionBase.instance()
        outer, version = state.hydra, base.version_base
        state.hydra = None
        try:
            with initialize_config_dir(str(CONFIGS), version_base="1.3"), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=LAUNCHER_NOTE)
                yield
        finally:
            GlobalHydra.set_instance(state)  # initialize_config_dir leaves a copy
            state.hydra, base.version_base = outer, version


def checked(config: DictConfig) -> DictConfig:
    """A copy with resolved paths (`~`, numbers read as text); raises UserError for an invalid value.

    Reads no data and imports nothing heavy, so that mistakes are reported at once.
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
    """Checks the logger before training; reading a run's settings must not need the library that logged it."""
    if extra := LOGGER_EXTRAS.get(str(config.logger._target_).rpartition(".")[2]):
        require(f"logger={extra}", extra)


def warn_of_single_step(config: DictConfig) -> None:
    if config.steps == 1 and config.warmup_ratio > 0:
        log.warning(
            "Warning: steps=1 trains nothing, since the warm-up begins at 0: steps=2 or more, or warmup_ratio=0."
        )


def resolved(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def local_path(path: str) -> str:
    """The folder of a `pkg://` path; any other path unchanged."""
    if not path.startswith(IN_PACKAGE):
        return path
    return str(PACKAGE / path.removeprefix(IN_PACKAGE))


def is_gguf(path: str) -> bool:
    """Whether it is a GGUF file, by its ending."""
    return path.lower().endswith(".gguf")


def _check_loss(config: DictConfig) -> None:
    """Checks the weights of all terms of loss=, whatever their names."""
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
            "folds= evaluates on every row, validation= on a share of them: give one (folds=5 validation=null, or"
            " folds=null validation=0.25)."
        )
    if config.score.method == "channel" and config.score.norm == "pmi":
        raise UserError("score.norm=pmi is for choices, but score.method=channel scores the input: use another norm.")
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
            f"trust_remote_code={trusted} must name the model whose own code may be run; this run has"
            f" {' and '.join(f'{key}={value}' for key, value in zip(MODEL_FILES, named, strict=True))}."
        )


def check_path_names(config: DictConfig) -> None:
    """Raises UserError for a path that no file can have, which Python would answer with a traceback."""
    for key in (*PATHS, *OTHER_PATHS):
        path = str(OmegaConf.select(config, key, default=""))
        parts = () if "://" in path else Path(path).parts  # a URL may be longer
        if "\0" in path or any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts):
            shown = path if len(path) < 100 else f"{path[:100]}..."
            raise UserError(
                f"{key}={shown} is not a valid path: a name in it has a NUL, or more than {MAX_NAME_BYTES} bytes."
            )
        if os.path.expanduser(path).startswith("~"):
            raise UserError(f"{key}={path}: this machine has no such user; ./{path} is a file or folder of that name.")


def _check_paths(config: DictConfig) -> None:
    check_path_names(config)
    if config.data_dir is not None and not Path(config.data_dir).is_dir():
        raise UserError(f"data_dir={config.data_dir} does not exist.")
    check_adapters(config)
    _check_gguf(config)
    # a folder is told from a Hub id by its form, so that a misspelt folder is not looked up on the Hub
    for key in MODEL_FILES:
        value = OmegaConf.select(config, key)
        if value is None or (key == "model.path" and is_gguf(value)):
            continue
        looks_local = value.startswith((".", "/")) or value.count("/") > 1
        if looks_local and not Path(local_path(value)).is_dir():
            raise UserError(f"{key}={value}: there is no such folder.")


def check_adapters(config: DictConfig) -> None:
    """Raises UserError where an adapter's folder is missing; those on the Hub are not looked for."""
    for key in ADAPTERS:
        value = OmegaConf.select(config, key)
        path = os.path.expanduser(str(value))  # os.path raises nothing for an unknown user or a name too long
        if value is None or path.startswith(HUB) or os.path.isdir(path):
            continue
        reason = "is a file, not a run or adapter folder" if os.path.exists(path) else "does not exist"
        raise UserError(f"{key}={value} {reason}.")


def _check_gguf(config: DictConfig) -> None:
    path, file = config.model.path, config.model.get("gguf_file")
    if path is not None and is_gguf(path):
        if file is not None:
            raise UserError(
                f"model.gguf_file={file} is of a folder or Hub repository, and model.path={path} is a file."
            )
        if not Path(path).is_file():
            raise UserError(
                f"model.path={path}: there is no such file (for one on the Hub: model.path=OWNER/NAME"
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
