"""Trains the folds of a cross-validation at the same time, each in its own process and on its own device.

Folds are independent, so results are those of training them in sequence; the run's own process reads their result
files. `python -c "from tfew.training.folds_at_once import main; main()"` is such a process; it reads its settings from
standard input.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from tfew.environment.cores import share_of_cores
from tfew.errors import UserError
from tfew.models.build import build_trainable
from tfew.ranking.evaluation import Evaluated, evaluate_model
from tfew.runs.run_folder import FOLD_FILE, fold_folder
from tfew.settings import DataSettings, EvaluationSettings, TrainerSettings, settings
from tfew.task import Task, train_task
from tfew.training.cross_validation import once
from tfew.training.fit import fit
from tfew.training.folds import row_folds

log = logging.getLogger(__name__)
POLL_SECONDS = 0.2


def train_fold(
    config: DictConfig, steps_later: int, training: Task, held_out: Task, folder: Path, folds_after: int = 0
) -> Evaluated:
    """Trains and evaluates one fold. `steps_later`: steps of trainings that follow the folds."""
    loaded = build_trainable(config)
    steps_after = folds_after * config.steps + steps_later
    fit(config, loaded.method, loaded.model, loaded.prompt_tokenizer, training, folder, steps_after)
    return evaluate_model(loaded, held_out, settings(EvaluationSettings, config).in_full, folder)


def train_folds_at_once(config: DictConfig, folder: Path) -> None:
    """Trains and evaluates the missing folds of this run, `folds_at_once` at a time; does nothing if that is 1.

    Raises UserError if a process fails; finished folds are kept.
    """
    at_once, devices = settings(DataSettings, config).folds_at_once, settings(TrainerSettings, config).devices
    if at_once == 1:
        return
    if devices != 1:
        raise UserError(f"folds_at_once={at_once} gives each fold a device of its own: set trainer.devices=1.")
    missing = [fold for fold in range(config.folds) if not (fold_folder(folder, fold) / FOLD_FILE).is_file()]
    places = list(range(min(at_once, len(missing))))  # devices that are free
    running: dict[int, tuple[int, subprocess.Popen[bytes]]] = {}
    try:
        while missing or running:
            while places and missing:
                fold, place = missing.pop(0), places.pop(0)
                running[fold] = place, _started(config, folder, fold, place, at_once)
                log.info(f"Fold {fold + 1} of {config.folds} is being trained, beside {len(running) - 1} others.")
            time.sleep(POLL_SECONDS)
            for fold, (place, process) in list(running.items()):
                if (code := process.poll()) is None:
                    continue
                if code:
                    how = f"signal {-code}" if code < 0 else f"exit code {code}; its output is above"
                    raise UserError(
                        f"The process of fold {fold + 1} ended ({how}), so the run is not finished; it continues with"
                        " resume=true."
                    )
                del running[fold]
                places.append(place)
                log.info(f"Fold {fold + 1} of {config.folds} is done.")
    finally:
        for _, process in running.values():
            process.kill()
            process.wait()


def _started(config: DictConfig, folder: Path, fold: int, place: int, at_once: int) -> subprocess.Popen[bytes]:
    told = {"config": OmegaConf.to_container(config, resolve=True), "folder": str(folder), "fold": fold}
    environment = {
        **_share_of_machine(place, at_once),
        "TFEW_FOLDS_OF": str(os.getpid()),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
        "TQDM_DISABLE": "1",
    }
    code = "from tfew.training.folds_at_once import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(told).encode())
    process.stdin.close()
    return process


def _share_of_machine(place: int, at_once: int) -> dict[str, str]:
    """The environment with which a process sees one GPU, or computes with its share of the cores."""
    if gpus := torch.cuda.device_count():
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        visible: Sequence[str] = named.split(",") if named else [str(gpu) for gpu in range(gpus)]
        return {"CUDA_VISIBLE_DEVICES": visible[place % len(visible)]}
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(share_of_cores(at_once)))}


def main() -> None:
    """Trains one fold, with settings from standard input."""
    told = json.load(sys.stdin)
    parent = int(os.environ["TFEW_FOLDS_OF"])
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    config, folder, fold = OmegaConf.create(told["config"]), Path(told["folder"]), int(told["fold"])
    try:
        task = train_task(config)
        fold_of_row = row_folds(task, config.folds, config.batch_size, config.few_shot_seed)
        held_out = [row for row, own in enumerate(fold_of_row) if own == fold]
        others = [row for row, own in enumerate(fold_of_row) if own != fold]
        once(task.only(others), task.only(held_out), fold_folder(folder, fold), partial(train_fold, config, 0))
    except UserError as error:
        sys.exit(f"Fold {fold + 1}: {error}")


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
