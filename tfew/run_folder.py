"""The folder of one run: whether it is finished, may be continued, or starts afresh."""

import logging
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tfew.config import differences, identity, resolved
from tfew.errors import UserError
from tfew.records import RECORD_FILE, cannot_write, write_atomically

log = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
PREDICTIONS_FILE = "predictions.jsonl"
METRICS_FILE = "metrics.csv"
CHECKPOINTS = "checkpoint"
OWN_FILES = (RECORD_FILE, CONFIG_FILE, PREDICTIONS_FILE, METRICS_FILE, "adapter.safetensors", "adapter.json")
OWN_FOLDERS = (CHECKPOINTS, "few_shot")


def is_finished(folder: Path) -> bool:
    return (folder / RECORD_FILE).is_file()


def prepare(folder: Path, config: DictConfig) -> bool:
    """Makes the folder ready to run in and returns True, or returns False where the same run is finished.

    Raises UserError where the folder holds a run of other settings, or cannot be written.
    """
    ours = identity(config)
    old = _saved_identity(folder)
    if old is not None and old != ours and not config.overwrite:
        raise UserError(
            f"{folder} holds a run with other settings ({'; '.join(differences(ours, old)[:5])}):"
            " choose another run_dir=, or say overwrite=true."
        )
    if is_finished(folder) and not config.overwrite:
        log.info(f"{folder} is finished; skipped (overwrite=true redoes it).")
        return False
    if config.resume and old is not None and not is_finished(folder):
        step = last_checkpoint(folder)
        log.info(f"{folder} is unfinished; {'continuing' if step else 'no checkpoint yet, starting afresh'}.")
    elif old is not None or is_finished(folder):
        log.info(f"{folder} is {'finished; redoing it' if is_finished(folder) else 'unfinished; starting afresh'}.")
        _clear(folder)
    write_atomically(folder / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(resolved(config))))
    return True


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps; more than one is left where a run was killed between two."""
    found = list((folder / CHECKPOINTS).glob("step=*.ckpt"))
    return max(found, key=lambda path: int(path.stem.removeprefix("step="))) if found else None


def remove_checkpoints(folder: Path) -> None:
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _saved_identity(folder: Path) -> dict[str, Any] | None:
    path = folder / CONFIG_FILE
    if not path.is_file():
        return None
    saved = OmegaConf.load(path)
    assert isinstance(saved, DictConfig)
    return identity(saved)


def _clear(folder: Path) -> None:
    """Removes what a run writes and nothing else; the record goes first, so a half-cleared run is no finished one."""
    try:
        for name in OWN_FILES:
            (folder / name).unlink(missing_ok=True)
        for name in OWN_FOLDERS:
            if (folder / name).exists():
                shutil.rmtree(folder / name)
    except OSError as error:
        raise cannot_write(folder, error) from error
