"""Repeats a run from its record, `rerun=runs/NAME`: its settings, with the commits and weights that it recorded."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tfew.config import resolved
from tfew.errors import UserError
from tfew.runs.identity import WEIGHT_HASHES, resolved_with_hashes
from tfew.runs.noted import ROWS
from tfew.runs.records import RunRecord, git_commit, library_versions, load_record, short_commit
from tfew.runs.run_folder import ADAPTER_FILES, METRICS_FILE, PREDICTIONS_FILE, finished_settings

log = logging.getLogger(__name__)
# settings allowed on the command line: where and how fast, not what
MAY_CHANGE = (
    "rerun", "runs", "run_dir", "resume", "overwrite", "logger", "workers", "engine", "memory_gb", "trainer",
    "trust_remote_code", "data_dir",
)  # fmt: skip
GROUPS = ("model", "score", "prompt", "fidelity", "templates", "trainer")  # to which later versions add keys
ROOT = "reruns"  # of the new runs, unless the command line sets another
COMPARED = (METRICS_FILE, ADAPTER_FILES[0], PREDICTIONS_FILE)


def settings_again(config: DictConfig, named: Collection[str]) -> tuple[RunRecord, DictConfig]:
    """The record of the run `config.rerun`, and the settings that repeat it; `named`: settings on the command line.

    Raises UserError if that would be another run, or overwrite this one.
    """
    folder = Path(str(config.rerun)).expanduser()
    saved = finished_settings(folder)
    if saved is None:
        raise UserError(f"rerun={folder} is no folder of a run (config.yaml is missing).")
    record = load_record(folder)
    if record.command != "train":
        raise UserError(f"rerun={folder} was made by {record.command}; rerun= works for training runs only.")
    if other := [key for key in named if key.partition(".")[0] not in MAY_CHANGE]:
        raise UserError(
            f"{other[0]}= would make another run than rerun={folder}; allowed with it are: {', '.join(MAY_CHANGE)}."
        )
    hashes, _ = saved.pop(WEIGHT_HASHES, None), saved.pop(ROWS, None)
    again = OmegaConf.create(_with_later_keys(saved, resolved(config)))
    for key in (*MAY_CHANGE[1:], *named):
        if key in named or key in ("runs", "run_dir", "resume", "overwrite"):
            OmegaConf.update(again, key, OmegaConf.select(config, key), merge=False, force_add=True)
    again.rerun = None
    if not {"runs", "run_dir"} & {*named}:
        again.runs = ROOT
    if resolved_with_hashes(again).get(WEIGHT_HASHES) != hashes:
        raise UserError(f"The adapter or model that rerun={folder} started from has changed since, or is not there.")
    return record, again


def _with_later_keys(saved: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """A run's settings, with settings added since at the value with which they were introduced."""
    groups = {key: {**default[key], **saved[key]} for key in GROUPS if key in saved and key in default}
    return {**default, **saved, **groups}


def log_differences_here(record: RunRecord) -> None:
    """Logs differences in libraries and code between the machine of the run and this one."""
    changed = _differences(record.versions, library_versions())
    commits = [short_commit(commit) if commit else "unknown" for commit in (record.git_commit, git_commit())]
    if commits[0] != commits[1]:
        changed.append(f"code {commits[0]} -> {commits[1]}")
    log.info(f"Making {record.name} again. Different here: {', '.join(changed) or 'nothing known'}.")


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return [f"{name} {before.get(name)} -> {after[name]}" for name in after if after[name] != before.get(name)]


def log_comparison(before: RunRecord, after: RunRecord) -> None:
    changed = "other rows; " if before.config.get(ROWS) not in (None, after.config.get(ROWS)) else ""
    same = [name for name in COMPARED if name in before.files and before.files[name] == after.files.get(name)]
    unlike = [name for name in COMPARED if name in before.files and name not in same]
    numbers = [
        f"{100 * record.metrics['accuracy']:.1f} %" for record in (before, after) if "accuracy" in record.metrics
    ]
    accuracy = f"accuracy {numbers[0]} then, {numbers[1]} now; " if len(numbers) == 2 else ""
    files = "; ".join(
        f"{what}: {', '.join(names)}" for what, names in (("the same bytes", same), ("others", unlike)) if names
    )
    moved = _differences(before.hardware, after.hardware) if before.hardware else []
    log.info(f"{accuracy}{changed}{files or 'its files have no checksums'}{'; ' if moved else ''}{', '.join(moved)}.")
