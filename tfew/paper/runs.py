"""Finished runs of a folder: their records and folders."""

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from tfew.errors import UserError
from tfew.runs.records import RECORD_FILE, RunRecord, load_record


@dataclass(frozen=True)
class Run:
    record: RunRecord
    folder: Path


def load_runs(runs: Path) -> list[Run]:
    """All finished runs directly under `runs`; raises UserError if there are none."""
    folders = sorted(path.parent for path in runs.glob(f"*/{RECORD_FILE}"))
    if not folders:
        raise UserError(f"runs={runs} has no finished run: train some first, or set runs= to their folder.")
    bar = tqdm(folders, desc="Records", unit="run", leave=False, mininterval=0.5)
    return [Run(load_record(folder), folder) for folder in bar]
