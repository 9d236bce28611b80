"""What commands share: the Hydra wrapper, messages on stderr, one-sentence errors for users; the devices; and the
settings of the run that `adapter=` names."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tfew.config import CONFIGS, LAUNCHER_NOTE, compose, with_quoted_values
from tfew.dataset_config import HUB_ID, on_other_rows
from tfew.devices.distributed import is_main_process
from tfew.environment.command_line import check_command_line
from tfew.environment.cores import watch_others
from tfew.errors import UserError
from tfew.files.hub_adapter import local_adapter
from tfew.files.hub_files import DATASETS, commit_of
from tfew.models.base_check import check_chosen_base, saved_base
from tfew.models.saved_task import saved_task
from tfew.runs.identity import WEIGHT_HASHES, model_name
from tfew.runs.noted import COMMIT, REVISIONS, SAMPLE, TOKENIZER_COMMIT, note, note_model_commits
from tfew.runs.run_folder import finished_settings
from tfew.settings import FidelitySettings, TrainerSettings, TrainingSettings, settings
from tfew.sweep.job import run_job
from tfew.sweep.rounds import run_in_rounds

log = logging.getLogger(__name__)

warnings.filterwarnings("ignore", message=LAUNCHER_NOTE)
# joblib restarts a worker whose memory has grown, as each worker's does with its first model
warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given to the executor")

# settings allowed with adapter=RUN: the others are fixed by its training
EVALUATION_SETTINGS = (
    "adapter", "dataset", "data", "text", "label", "labels", "data_dir", "templates", "score", "model", "trainer",
    "max_tokens", "eval_batch_size", "eval_rows", "eval_seed", "baselines", "icl", "runs", "run_dir", "resume",
    "overwrite", "workers", "engine", "memory_gb", "trust_remote_code", "base",
)  # fmt: skip
# these belong to that run, not to this one; or describe its computation, which older runs lack
NOT_BROUGHT = (
    "runs", "run_dir", "resume", "overwrite", "engine", "memory_gb", "icl", "baselines", "trust_remote_code", "base",
)  # fmt: skip


def command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """Decorator that makes a command of a function of the configuration.

    A `UserError` becomes a sentence on stderr (HYDRA_FULL_ERROR=1 shows the traceback) and exit code 1. The jobs of a
    sweep (`-m`) each have a folder of their own; an error in one does not stop the others.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        @hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)
        @wraps(function)
        def main(config: DictConfig) -> Any:
            _messages_to_stderr()  # also for a sweep's job in another process
            try:
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    if "resume" in config:  # interrupted runs can be resumed
                        config.resume = not config.overwrite
                    return run_job(partial(function, config))
                return function(config)
            except UserError as error:
                _end_with(str(error), error)
            except OmegaConfBaseException as error:  # a run's file was edited
                what = str(error).splitlines()[0]
                _end_with(f"The settings are incomplete or of a wrong type: {what}.", error)
            except KeyboardInterrupt:
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    raise
                sys.exit("Interrupted. An unfinished run continues with resume=true.")

        return partial(_start, main, config_name)

    return decorate


def _end_with(sentence: str, error: Exception) -> NoReturn:
    """Ends the command with this sentence only; in a sweep raises it for Hydra, which continues with other jobs."""
    if HydraConfig.get().mode == RunMode.MULTIRUN or os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise CompactHydraException(sentence) from error
    sys.exit(sentence)


def _start(main: Callable[[], Any], config_name: str) -> Any:
    watch_others()
    _messages_to_stderr()
    check_command_line(config_name)
    try:
        sys.argv[1:] = with_quoted_values(sys.argv[1:], is_sweep=bool({"-m", "--multirun"} & {*sys.argv[1:]}))
    except UserError as error:
        sys.exit(str(error))
    return run_in_rounds(main)


def run_script(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Runs a script of many runs: exits with the result of `main(arguments)`, or with one sentence."""
    try:
        sys.exit(main(sys.argv[1:]))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted. Finished runs are kept; the same command continues.")


@contextmanager
def on_all_devices(config: DictConfig, name: str) -> Iterator[None]:
    """Inside, all processes of the run execute the same code (see `tfew.devices.launcher`).

    `name`: of the command. Updates the settings that depend on the number of processes.
    """
    from tfew.devices.launcher import Workload, launch

    training, trainer = settings(TrainingSettings, config), settings(TrainerSettings, config)
    workload = Workload(
        name,
        trainer.strategy,
        training.batch_size,
        training.micro_batch_size,
        settings(FidelitySettings, config).loss_mean,
        training.memory_gb,
        optimizer=config.optimizer._target_.rpartition(".")[2],
    )
    settings_yaml = OmegaConf.to_yaml(config, resolve=True)
    with launch(workload, trainer.accelerator, trainer.devices, settings_yaml) as number:
        config.trainer.devices = number  # for the record
        if trainer.strategy == "deepspeed_3":
            config.engine = "plain"  # engine=fast reads weights outside of layers, where they are not gathered
        yield


def overridden(overrides: Sequence[str]) -> list[str]:
    """The keys and groups that these command-line overrides name."""
    quoted = with_quoted_values(overrides)
    return [override.key_or_group for override in OverridesParser.create().parse_overrides(quoted)]


def with_run_settings(
    config: DictConfig, overrides: Sequence[str], may_change: Collection[str] = EVALUATION_SETTINGS
) -> DictConfig:
    """The settings of the run in the folder `config.adapter`, overridden by the command line.

    `may_change`: the keys it may override; the others are fixed by training. An adapter folder that is not a run folder
    has only its task, if its record names one; all else comes from the command line.
    """
    if config.adapter is None:
        return config
    folder = local_adapter(str(config.adapter))
    saved = finished_settings(folder)
    if saved is None:
        config = with_base(with_task(config, overrides, folder), overrides, folder)
        return keep_to_base(config, folder, overridden(overrides))
    saved.pop(WEIGHT_HASHES, None)
    merged = OmegaConf.create({**saved, "init_adapter": None})
    for key in NOT_BROUGHT:
        if key in config:
            merged[key] = config[key]
    for key in ("devices", "strategy"):
        merged.trainer[key] = config.trainer[key]
    merged.score = OmegaConf.merge(config.score, merged.score)  # older runs lack some of these keys
    for key in overridden(overrides):
        if key.partition(".")[0] not in may_change:
            good = ", ".join(may_change)
            raise UserError(
                f"{key}= belongs to training, and adapter= brings its run's settings; it allows only: {good}."
            )
        OmegaConf.update(merged, key, OmegaConf.select(config, key), merge=False, force_add=True)
    if "data" in overridden(overrides):
        merged = on_other_rows(merged)
    merged.name = merged.dataset.name
    if not {"model", "model.path"} & {*overridden(overrides)}:
        check_chosen_base(merged, str(config.adapter))
    return keep_to_base(merged, folder, overridden(overrides))


def with_task(config: DictConfig, overrides: Sequence[str], folder: Path) -> DictConfig:
    """The configuration with the task recorded by an adapter without its run, unless the command line names one."""
    named = overridden(overrides)
    if {"dataset", "experiment"} & {*named} or (task := saved_task(folder)) is None:
        return config
    merged = config.copy()
    for key, value in task.items():
        merged[key] = value
    merged.score = OmegaConf.merge(config.score, merged.score)
    for key in named:
        OmegaConf.update(merged, key, OmegaConf.select(config, key), merge=False, force_add=True)
    if config.get("data") is not None:
        merged = on_other_rows(merged)
    if "name" in merged:
        merged.name = merged.dataset.name
    log.info(f"{folder} is an adapter without its run; its record names the task {merged.dataset.name}.")
    return merged


def with_base(config: DictConfig, overrides: Sequence[str], folder: Path) -> DictConfig:
    """Adds the base model in the record of an adapter without its run, unless the command line names one.

    A model of this project's list by its name, any other by its Hub id.
    """
    if {"model", "model.path"} & {*overridden(overrides)} or not folder.is_dir():
        return config
    base = saved_base(folder)
    name, path = base.get("name"), base.get("path")
    if name == model_name(config):
        return config
    listed = compose(f"model={name}").model if (CONFIGS / "model" / f"{name}.yaml").is_file() else None
    if listed is not None and path in (None, listed.path):
        config.model = listed
    elif isinstance(path, str) and HUB_ID.fullmatch(path):
        config.model.path, config.model.tokenizer = path, base.get("tokenizer")
    else:
        raise UserError(
            f"{folder} is an adapter without its run, and belongs to the model {name!r}, which is not in this"
            " project's list: set model.path=, the folder or the Hub id of that model."
        )
    log.info(f"{folder} is an adapter without its run; its record names the model {name}.")
    return config


def keep_to_base(config: DictConfig, folder: Path, named: Collection[str]) -> DictConfig:
    """Pins the Hub commits that the adapter was trained on, if the model is the adapter's; changes the configuration in
    place. `named`: settings of the command line, which have priority.
    """
    if not folder.is_dir():  # `checked` raises for it
        return config
    base, model = saved_base(folder), config.model
    note(config, f"model.{SAMPLE}", None)  # of that run; this command notes the sample of its own model
    for commit, id in ((COMMIT, "path"), (TOKENIZER_COMMIT, "tokenizer")):
        if f"model.{commit}" in named:
            continue
        is_same = model.get(id) is not None and model[id] == base.get(id)
        said = any(f"model.{name}" in named for name in REVISIONS[commit])
        note(config, f"model.{commit}", base.get(commit) if is_same and not said else None)
    if "dataset.hub.revision" in named and config.dataset.hub is not None:
        hub = config.dataset.hub
        note(config, f"dataset.hub.{COMMIT}", commit_of(DATASETS, str(hub.id), str(hub.revision)))
    note_model_commits(config)
    return config


class _ToStderr(logging.Handler):
    """The current standard error, which a job of a sweep redirects."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def _messages_to_stderr() -> None:
    log = logging.getLogger("tfew")
    if not log.handlers:
        log.addHandler(_ToStderr())
        log.setLevel(logging.INFO if is_main_process() else logging.WARNING)
        log.propagate = False
