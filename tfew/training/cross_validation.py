"""k-fold cross-validation over the training rows: each is predicted by an adapter that was trained without it.

Every fold is a training of its own, in a folder of its own under the run's, and leaves its predictions there; a run
that was stopped goes on with the fold it was in.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from omegaconf import DictConfig

from tfew.devices.distributed import broadcast_object, is_main_process
from tfew.errors import UserError
from tfew.files.atomic import write_atomically
from tfew.files.checksums import check_sha256, file_sha256, from_checked_json, to_checked_json
from tfew.models.build import build_trainable
from tfew.ranking.evaluation import Evaluated, evaluate_model, metrics_of, write_predictions
from tfew.ranking.icl import Answer
from tfew.ranking.metrics import accuracy
from tfew.runs.run_folder import FOLD_FILE, PREDICTIONS_FILE, fold_folder, remove_checkpoints
from tfew.schema import Prediction
from tfew.task import Task
from tfew.training.fit import fit

log = logging.getLogger(__name__)

PREDICTIONS_SHA256 = "predictions_sha256"


def cross_validate(config: DictConfig, task: Task, fold_of_row: Sequence[int], folder: Path) -> Evaluated:
    """Trains and evaluates once a fold; writes all held-out predictions into the run's `predictions.jsonl`.

    The metrics are those of all held-out rows together, and `folds`, the accuracy in each; the seconds are those of
    training, too.
    """
    parts, predictions = [], []
    for fold in range(config.folds):
        inside = [row for row, own in enumerate(fold_of_row) if own == fold]
        outside = [row for row, own in enumerate(fold_of_row) if own != fold]
        log.info(f"Fold {fold + 1} of {config.folds}: {len(outside)} rows to train on, {len(inside)} held out.")
        part = _one_fold(config, task.only(outside), task.only(inside), fold_folder(folder, fold))
        parts.append(part)
        predictions.append(broadcast_object(_read(fold_folder(folder, fold), fold) if is_main_process() else []))
    by_row = {(p.idx, p.template): p for group in predictions for p in group}
    in_order = [by_row[prompt.idx, prompt.template] for row in task.prompts for prompt in row]
    write_predictions(folder, in_order)
    answers = [Answer.of(prediction, config.score.norm) for prediction in in_order]
    metrics = {**metrics_of(config, task, answers), "folds": [accuracy(group) for group in predictions]}
    names = parts[0].counts
    counts = {name: sum(part.counts[name] for part in parts) for name in names}
    counts = {**counts, "rows": task.rows, "empty_renders": task.empty_renders}
    return Evaluated(metrics, counts, sum(part.tokens for part in parts), sum(part.seconds for part in parts))


def _one_fold(config: DictConfig, training: Task, held_out: Task, folder: Path) -> Evaluated:
    if (done := broadcast_object(_finished(folder))) is not None:
        log.info(f"{folder} is finished; skipped.")
        if is_main_process():
            remove_checkpoints(folder)
        return done
    started = time.monotonic()
    if is_main_process():
        folder.mkdir(exist_ok=True)
    built = build_trainable(config)
    fit(config, built.method, built.model, built.prompt_tokenizer, training, folder)
    evaluated = evaluate_model(config, built.method, built.model, built.prompt_tokenizer, held_out, folder)
    evaluated = replace(evaluated, seconds=time.monotonic() - started)
    if is_main_process():
        checksum = file_sha256(folder / PREDICTIONS_FILE)
        write_atomically(folder / FOLD_FILE, to_checked_json({**asdict(evaluated), PREDICTIONS_SHA256: checksum}))
        remove_checkpoints(folder)
    return evaluated


def _finished(folder: Path) -> Evaluated | None:
    """What `_one_fold` wrote; raises UserError where it, or its predictions, are not as they were written."""
    path, remedy = folder / FOLD_FILE, f"Delete {folder}, and resume=true does this fold again."
    if not path.is_file():
        return None
    try:
        fields = from_checked_json(path.read_text(encoding="utf-8"))
        check_sha256(folder / PREDICTIONS_FILE, fields.pop(PREDICTIONS_SHA256, None), remedy)
        return Evaluated(**fields)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}. {remedy}") from error


def _read(folder: Path, fold: int) -> list[Prediction]:
    with (folder / PREDICTIONS_FILE).open(encoding="utf-8") as lines:
        return [replace(Prediction.from_json(line), fold=fold) for line in lines]
