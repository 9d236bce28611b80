"""The run folder behind a fitted estimator: it exists as long as something refers to it, and is part of a pickle."""

import os
import shutil
import tempfile
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tfew.errors import UserError
from tfew.files.atomic import write_atomically
from tfew.runs.records import RECORD_FILE, RunRecord, load_record, save_record
from tfew.runs.run_folder import CONFIG_FILE


class KeptRun:
    """`root`: a temporary folder; `folder`: of the run, under it. A pickle has the run's files, without the model."""

    def __init__(self) -> None:
        self._make_root()
        self._name: str | None = None  # of the run, once it exists

    def _make_root(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="tfew-"))
        weakref.finalize(self, _remove, self.root, os.getpid())

    @property
    def folder(self) -> Path:
        assert self._name is not None
        folder = self.root / self._name
        if not (folder / RECORD_FILE).is_file():
            raise UserError(
                f"{self.root}, the temporary folder of this classifier, has been removed (by a cleaner of temporary"
                " files?): fit it again, and keep it with save(FOLDER) or a pickle."
            )
        return folder

    def keep(self, record: RunRecord) -> None:
        """Keeps this run, which is under `root`, and removes everything else there."""
        self._name = record.name
        for path in self.root.iterdir():
            if path.is_file():
                path.unlink()

    def record(self) -> RunRecord:
        """The run's record, with its current folder."""
        found = load_record(self.folder)
        return replace(found, config={**found.config, "run_dir": str(self.folder)})

    def copy_to(self, folder: Path) -> None:
        """Copies it to an ordinary run folder; raises UserError if something else is there."""
        folder = folder.expanduser().absolute()
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UserError(f"{folder} already exists and is not empty: choose another folder, or remove it first.")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
                copy = Path(temporary) / folder.name
                shutil.copytree(self.folder, copy)
                _move_settings(copy, folder)
                os.replace(copy, folder)
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror or error}.") from error

    def __getstate__(self) -> dict[str, Any]:
        files = {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }
        return {"name": self._name, "files": files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._make_root()
        self._name = Path(state["name"]).name
        for name, data in state["files"].items():
            path = self.root / self._name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _move_settings(copy: Path, folder: Path) -> None:
    """Updates the run's own folder in its settings and its record."""
    settings = OmegaConf.load(copy / CONFIG_FILE)
    settings.run_dir = str(folder)
    write_atomically(copy / CONFIG_FILE, OmegaConf.to_yaml(settings))
    record = load_record(copy)
    save_record(copy, replace(record, config={**record.config, "run_dir": str(folder)}))


def _remove(root: Path, process: int) -> None:
    """Removes the folder, unless this is a forked process, which does not own it."""
    if os.getpid() == process:
        shutil.rmtree(root, ignore_errors=True)
