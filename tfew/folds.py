"""k-fold cross-validation over the training rows: each is predicted by an adapter that was trained without it.

Every fold is a training of its own, in a folder of its own under the run's, and leaves its predictions there; a run
that was stopped goes on with the fold it was in.
"""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

from omegaconf import DictConfig

from tfew.build import build_trainable
from tfew.data.split import folds_of, rarer_than
from tfew.errors import UserError, some
from tfew.evaluation import Evaluated, evaluate_model, metrics_of, write_predictions
from tfew.fit import fit
from tfew.ranking.metrics import accuracy
from tfew.records import write_atomically
from tfew.run_folder import FOLD_FILE, PREDICTIONS_FILE, fold_folder, remove_checkpoints
from tfew.schema import Prediction
from tfew.task import Task

log = logging.getLogger(__name__)


def cross_validate(config: DictConfig, task: Task, folder: Path) -> Evaluated:
    """Trains and evaluates once a fold; writes all held-out predictions into the run's `predictions.jsonl`.

    The metrics are those of all held-out rows together, and `folds`, the accuracy in each.
    """
    fold_of_row = row_folds(config, task)
    parts, predictions = [], []
    for fold in range(config.folds):
        inside = [row for row, own in enumerate(fold_of_row) if own == fold]
        outside = [row for row, own in enumerate(fold_of_row) if own != fold]
        log.info(f"Fold {fold + 1} of {config.folds}: {len(outside)} rows to train on, {len(inside)} held out.")
        part = _one_fold(config, task.only(outside), task.only(inside), fold_folder(folder, fold))
        parts.append(part)
        predictions.append(_read(fold_folder(folder, fold), fold))
    by_row = {(p.idx, p.template): p for group in predictions for p in group}
    in_order = [by_row[prompt.idx, prompt.template] for row in task.prompts for prompt in row]
    write_predictions(folder, in_order)
    metrics = {**metrics_of(config, task, in_order), "folds": [accuracy(group) for group in predictions]}
    names = parts[0].counts
    counts = {name: sum(part.counts[name] for part in parts) for name in names}
    counts = {**counts, "rows": task.rows, "empty_renders": task.empty_renders}
    return Evaluated(metrics, counts, sum(part.tokens for part in parts), sum(part.seconds for part in parts))


def row_folds(config: DictConfig, task: Task) -> list[int]:
    """The fold of each training row; labels that are too rare to be in every fold are named."""
    if task.mixture is not None:
        raise UserError(
            f"folds={config.folds} is for one data set, and {config.dataset.name} is a mixture: folds=null."
        )
    if config.folds > task.rows:
        raise UserError(f"folds={config.folds}, but there are only {task.rows} rows to train on.")
    if task.rows - -(-task.rows // config.folds) < config.batch_size:
        raise UserError(
            f"folds={config.folds} leaves fewer than batch_size={config.batch_size} of {task.rows} rows to train on."
        )
    if task.classes is None:
        return folds_of([None] * task.rows, config.folds, config.few_shot_seed)
    names = [task.classes[example.label or 0] for example in task.examples]
    if rare := rarer_than(names, config.folds):
        listing = some(f"{name} ({rows})" for name, rows in rare.items())
        log.info(f"Note: labels with fewer rows than there are folds are not in every one: {listing}.")
    return folds_of(names, config.folds, config.few_shot_seed)


def _one_fold(config: DictConfig, training: Task, held_out: Task, folder: Path) -> Evaluated:
    if (folder / FOLD_FILE).is_file():
        log.info(f"{folder} is finished; skipped.")
        return Evaluated(**json.loads((folder / FOLD_FILE).read_text(encoding="utf-8")))
    folder.mkdir(exist_ok=True)
    built = build_trainable(config)
    fit(config, built.method, built.model, built.encoder, training, folder)
    evaluated = evaluate_model(config, built.method, built.model, built.encoder, held_out, folder)
    write_atomically(folder / FOLD_FILE, json.dumps(asdict(evaluated)) + "\n")
    remove_checkpoints(folder)
    return evaluated


def _read(folder: Path, fold: int) -> list[Prediction]:
    lines = (folder / PREDICTIONS_FILE).read_text(encoding="utf-8").splitlines()
    return [replace(Prediction.from_json(line), fold=fold) for line in lines]
