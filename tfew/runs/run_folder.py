"""The folder of one run: whether it is finished, can be resumed, or starts afresh."""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NotRequired

from omegaconf import OmegaConf
from typing_extensions import TypedDict

from tfew.devices.distributed import barrier, is_main_process
from tfew.errors import UserError
from tfew.files.atomic import remove_temporary_files, write_atomically, write_error
from tfew.files.checksums import check_sha256, file_sha256
from tfew.files.regular import read_text
from tfew.files.untrusted import parse_yaml, validated
from tfew.runs.card import CARD_FILE, is_model_card
from tfew.runs.checkpoints import CHECKPOINTS, JOINT_PREFIX, last_checkpoint, remove_checkpoints, remove_if_empty
from tfew.runs.identity import differences, identity
from tfew.runs.noted import noted_differences
from tfew.runs.records import RECORD_FILE, RunRecord, load_record
from tfew.runs.run_lock import LOCK_FILE, lock_run

log = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
PREDICTIONS_FILE = "predictions.jsonl"
METRICS_FILE = "metrics.csv"
SPEED_FILE = "speed.csv"  # of each step, too, but different each time, so without checksum
MIXTURE_FILE = "mixture.json"
REPORT_FILE = "report.html"  # of a run on a user's own rows, whose texts it quotes
FOLD_PREFIX = "fold_"  # and a number: the folder of one fold of a cross-validation
SETTING_PREFIX = "setting_"  # and a number: the folder of one tried setting (tune=true), with its own folds
FOLD_FILE = "fold.json"  # the fold's evaluation; written last
ADAPTER_FILES = ("adapter.safetensors", "adapter.json", "temperature.json")
# and CONFIG_FILE
OWN_FILES = (RECORD_FILE, PREDICTIONS_FILE, METRICS_FILE, MIXTURE_FILE, REPORT_FILE, *ADAPTER_FILES)
asked_for: dict[Path, bool] = {}  # folders of runs that this process was asked for: whether it made them
LOGGER_FOLDERS = ("tensorboard", "wandb")


def is_finished(folder: Path) -> bool:
    return (folder / RECORD_FILE).is_file()


def run_once(
    folder: Path, settings: Mapping[str, Any], overwrite: bool, make: Callable[[Path], RunRecord]
) -> RunRecord:
    """Makes the run if it is not finished yet, by one process at a time, and returns its record.

    `settings`, here and below: with hashes, from `resolved_with_hashes`. If several processes share one run
    (`tfew.devices.launcher`), the first locks it, and the others wait for that one. Raises RunLocked, a UserError, if
    another process is making it.
    """
    if not already_finished(folder, settings, overwrite):
        with lock_run(folder) if is_main_process() else nullcontext():
            if not already_finished(folder, settings, overwrite):  # another process may have finished it meanwhile
                record = make(folder)
                asked_for[folder] = True
                return record
    record = load_record(folder)
    asked_for[folder] = False
    remove_leftovers(folder)
    return record


def already_finished(folder: Path, settings: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether exactly this run is finished already; changes nothing.

    Raises UserError if the folder contains something else: a run with other settings, or files of no run.
    """
    _check_foreign_files(folder)
    saved = saved_settings(folder)
    if saved is None or overwrite:
        return False
    ours, theirs = identity(settings), identity(saved)
    if ours != theirs:
        raise UserError(
            f"{folder} holds a run with other settings ({'; '.join(differences(ours, theirs)[:5])}):"
            " choose another run_dir=, or set overwrite=true."
        )
    if is_finished(folder) and (moved := noted_differences(settings, saved)):
        raise UserError(
            f"{folder} holds this run with other files of the Hub ({'; '.join(moved)}): choose another run_dir=, or set"
            " overwrite=true."
        )
    if is_finished(folder):
        log.info(f"{folder} is finished; skipped (overwrite=true redoes it).")
        if newer := _changed_file(folder, settings):
            log.warning(f"{newer} has changed since that run was finished: overwrite=true makes it anew.")
    return is_finished(folder)


def _changed_file(folder: Path, settings: Mapping[str, Any]) -> Path | None:
    """A file that is newer than the run, of those of which a run's name tells only the place.

    These are the weights in a local folder of the base model, and the data sets in data_dir.
    """
    path, made = (settings.get("model") or {}).get("path"), (folder / RECORD_FILE).stat().st_mtime
    base = None if path is None or not Path(str(path)).is_dir() else Path(str(path))
    files = [] if base is None else [*base.glob("*.safetensors"), *base.glob("*.bin")]
    if (data_dir := settings.get("data_dir")) is not None:
        members = filter(None, (settings["dataset"].get("members") or {}).values())
        named = strings([dataset.get("files") for dataset in (settings["dataset"], *members)])
        files += [file for name in named if (file := Path(str(data_dir)) / name).is_file()]
    return next((file for file in sorted(files) if file.stat().st_mtime > made), None)


def remove_leftovers(folder: Path) -> None:
    """Removes lock, checkpoints and temporary files of a run that was killed after writing its record."""
    if is_main_process() and any((folder / name).exists() for name in (LOCK_FILE, CHECKPOINTS)):
        with suppress(UserError), lock_run(folder):  # locked by another process, or not writable
            remove_checkpoints(folder)
            remove_temporary_files(folder)


def open_run(folder: Path, settings: Mapping[str, Any], resume: bool, together: bool = False) -> None:
    """Prepares the folder for the run: clears it, or with `resume` keeps it. To be called after all checks.

    `together`: of `train_together=`, whose checkpoints a single run does not read, nor the other way round.
    Of several processes only the main one does so, once all have done their checks; the others wait.
    """
    barrier()
    if is_main_process():
        _open(folder, settings, resume, together)
    barrier()


def _open(folder: Path, settings: Mapping[str, Any], resume: bool, together: bool) -> None:
    remove_temporary_files(folder)
    unfinished = (folder / CONFIG_FILE).is_file() and not is_finished(folder)
    if resume and unfinished:
        joint = any((folder / CHECKPOINTS).glob(f"{JOINT_PREFIX}*.pt"))
        saved_alone = (folder / CHECKPOINTS).glob("step=*.ckpt")
        alone = any(saved_alone) if together else last_checkpoint(folder) or _trial_folders(folder)
        done, other = (joint, alone) if together else (alone, joint)
        of_others = f"its checkpoint is of {'a run trained alone' if together else 'runs trained together'}"
        lacks = of_others if other else "no checkpoint yet"
        log.info(f"{folder} is unfinished; {'continuing' if done else f'{lacks}, starting over'}.")
    elif unfinished or is_finished(folder):
        kept = any((folder / CHECKPOINTS).glob("step=*.ckpt"))
        lost = " without its checkpoint, from which resume=true would have continued" if kept else ""
        log.info(f"{folder} is {f'unfinished; starting over{lost}' if unfinished else 'finished; redoing it'}.")
        _clear(folder)
    write_atomically(folder / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(dict(settings))))


def file_checksums(folder: Path) -> dict[str, str]:
    """sha256 of each file that a run wrote beside its record."""
    return {name: file_sha256(folder / name) for name in OWN_FILES if (folder / name).is_file() and name != RECORD_FILE}


def check_recorded(record: RunRecord, folder: Path, name: str) -> None:
    """Raises UserError if the checksum of this file of a finished run differs from the record's."""
    check_sha256(folder / name, record.files.get(name), "Make the run again with overwrite=true.")


def fold_folder(folder: Path, fold: int) -> Path:
    return folder / f"{FOLD_PREFIX}{fold}"


def setting_folder(folder: Path, place: int) -> Path:
    return folder / f"{SETTING_PREFIX}{place}"


def _trial_folders(folder: Path) -> list[Path]:
    return [*folder.glob(f"{FOLD_PREFIX}*"), *folder.glob(f"{SETTING_PREFIX}*")]


def few_shot_path(folder: Path, dataset: str, shots: object, seed: object) -> Path:
    """The file of a run's shots: `few_shot=files data_dir=RUN` can read it.

    `dataset`: its official name. Raises UserError if these settings, which may be untrusted, lead out of the folder.
    """
    parts = (str(dataset), f"{shots}_shot", f"{seed}_seed.jsonl")
    for part in parts:
        if Path(part).name != part or part == ".." or "\0" in part:
            raise UserError(f"{folder}: {part!r}, in the settings of this run, is no name for a file or folder.")
    return folder.joinpath("few_shot", *parts)


class _Model(TypedDict):
    name: str | int | float
    path: str | None
    revision: str
    tokenizer: NotRequired[str | None]
    arch: NotRequired[dict[str, Any] | None]


class _NamedGroup(TypedDict, total=False):
    name: str | int | float | None
    path: str | None


class _Settings(TypedDict, total=False):
    """The required types of a run's settings; commands check the values."""

    name: str | int | float
    model: _Model
    method: _NamedGroup
    dataset: dict[str, Any]
    templates: dict[str, Any]
    loss: dict[str, Any]
    optimizer: dict[str, Any]
    trainer: dict[str, Any]
    logger: dict[str, Any]
    fidelity: dict[str, Any]
    score: dict[str, Any]
    icl: dict[str, Any]
    rows_sha256: dict[str, str]


def saved_settings(folder: Path) -> dict[str, Any] | None:
    """`config.yaml` of a run, None without one; raises UserError if it is not one of this project."""
    path = folder / CONFIG_FILE
    if not path.exists():
        return None
    try:
        settings = parse_yaml(read_text(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as YAML: {error}.") from error
    needed = {"model", "method", "dataset", "few_shot_seed", "shots"}
    if not isinstance(settings, dict) or not needed <= settings.keys():
        raise UserError(f"{path} is not the configuration of a run of this project; choose another folder.")
    try:
        validated(settings, _Settings)
    except ValueError as error:
        raise UserError(f"{path} is not the configuration of a run of this project: {error}.") from error
    if any(
        "${" in text for text in strings(settings)
    ):  # might read secrets from the environment; a run's own settings are resolved
        raise UserError(
            f"{path} refers to something outside it (${{...}}), which no run writes: it is not to be trusted."
        )
    return settings


def strings(node: Any) -> Iterator[str]:
    """All keys and values that are strings, at any depth."""
    if isinstance(node, dict):
        node = [*node, *node.values()]
    if isinstance(node, list):
        for part in node:
            yield from strings(part)
    elif isinstance(node, str):
        yield node


def finished_settings(folder: Path) -> dict[str, Any] | None:
    """`saved_settings` of a finished run; raises UserError if the run is unfinished."""
    settings = saved_settings(folder)
    if settings is not None:
        load_record(folder)  # raises if it is missing or unreadable
    return settings


def _check_foreign_files(folder: Path) -> None:
    """Raises UserError for files that no run writes; a killed start leaves only a lock and temporary files."""
    foreign = [
        path
        for path in folder.glob("*")
        if path.name != LOCK_FILE and not (path.name.startswith(".") and path.suffix == ".tmp")
    ]
    if foreign and not (folder / CONFIG_FILE).is_file():
        raise UserError(f"{folder} is not empty and holds no run of this project: choose another run_dir=.")


def _clear(folder: Path) -> None:
    """Removes only what a run writes; the record first, so that a half-cleared run is unfinished."""
    settings = saved_settings(folder)
    try:
        for name in (*OWN_FILES, SPEED_FILE):
            (folder / name).unlink(missing_ok=True)
        remove_checkpoints(folder)
        if is_model_card(folder / CARD_FILE):  # contains the old run's numbers
            (folder / CARD_FILE).unlink()
        for path in [*(folder / name for name in LOGGER_FOLDERS), *_trial_folders(folder)]:
            if path.is_dir():
                shutil.rmtree(path)
        if settings is not None:
            dataset = settings["dataset"]["official_name"]
            shots = few_shot_path(folder, dataset, settings["shots"], settings["few_shot_seed"])
            shots.unlink(missing_ok=True)
            for parent in (shots.parent, shots.parents[1], shots.parents[2]):
                remove_if_empty(parent)
        (folder / CONFIG_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
