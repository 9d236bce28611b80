"""The checkpoints of an unfinished run, from which `resume=true` continues."""

import shutil
from pathlib import Path

from tfew.files.checksums import check_checkpoint

CHECKPOINTS = "checkpoint"
MASK_FILE = "calibration.safetensors"
JOINT_PREFIX = "together-step="  # of the checkpoints of runs that are trained jointly


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps; a kill between two checkpoints may leave several.

    A checkpoint that is a folder (deepspeed_3) is complete if it has the file `latest`. Raises UserError for a damaged
    one.
    """
    found = [
        path for path in (folder / CHECKPOINTS).glob("step=*.ckpt") if path.is_file() or (path / "latest").is_file()
    ]
    if not found:
        return None
    last = max(found, key=lambda path: int(path.stem.removeprefix("step=")))
    if last.is_file():
        check_checkpoint(last)
    return last


def remove_checkpoints(folder: Path) -> None:
    saved = [path for name in ("step=*.ckpt", f"{JOINT_PREFIX}*.pt") for path in (folder / CHECKPOINTS).glob(name)]
    for path in [*saved, folder / CHECKPOINTS / MASK_FILE]:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    remove_if_empty(folder / CHECKPOINTS)


def remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
