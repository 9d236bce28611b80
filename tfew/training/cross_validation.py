"""k-fold cross-validation over the training rows: each row is predicted by an adapter that was trained without it.

Each fold is a separate training in its own folder under the run's, where it writes its predictions; an interrupted run
resumes with the fold it was in.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from tfew.devices.distributed import broadcast_object, is_main_process
from tfew.errors import UserError
from tfew.files.atomic import write_atomically
from tfew.files.checksums import check_sha256, file_sha256, from_checked_json, to_checked_json
from tfew.ranking.baselines import Guesses
from tfew.ranking.evaluation import Evaluated, metrics_of, write_predictions
from tfew.ranking.icl import Answer
from tfew.ranking.metrics import accuracy, accuracy_of_sets
from tfew.runs.checkpoints import remove_checkpoints
from tfew.runs.run_folder import FOLD_FILE, PREDICTIONS_FILE, fold_folder
from tfew.schema import Prediction
from tfew.task import Task

log = logging.getLogger(__name__)

PREDICTIONS_SHA256 = "predictions_sha256"
# trains a new model on the first task and evaluates it on the second, in this folder
TrainAndEvaluate = Callable[[Task, Task, Path], Evaluated]


def cross_validate(
    task: Task,
    fold_of_row: Sequence[int],
    folder: Path,
    norm: str,
    train_and_evaluate: Callable[..., Evaluated],
    guesses: Guesses | None = None,
) -> Evaluated:
    """Trains and evaluates each fold; writes all held-out predictions into the run's `predictions.jsonl`.

    The metrics are computed over all held-out rows; `folds` is the accuracy in each fold; the seconds include training.
    `train_and_evaluate` is a `TrainAndEvaluate` that also gets the number of following folds (`folds_after`).
    `guesses`: the baselines' predictions for all rows, to compare with.
    """
    folds = max(fold_of_row) + 1
    evaluations, predictions = [], []
    for fold in range(folds):
        held_out = [row for row, own in enumerate(fold_of_row) if own == fold]
        others = [row for row, own in enumerate(fold_of_row) if own != fold]
        log.info(f"Fold {fold + 1} of {folds}: {len(others)} rows to train on, {len(held_out)} held out.")
        run = fold_folder(folder, fold)
        make = partial(train_and_evaluate, folds_after=folds - fold - 1)
        evaluations.append(once(task.only(others), task.only(held_out), run, make))
        predictions.append([replace(prediction, fold=fold) for prediction in read_predictions(run)])
    by_row = {(p.idx, p.template, p.question): p for group in predictions for p in group}
    in_order = [
        by_row[prompt.idx, prompt.template, question]
        for row in task.prompts
        for prompt in row
        for question in prompt.questions or (None,)
    ]
    write_predictions(folder, in_order)
    answers = [Answer.of(prediction, norm) for prediction in in_order]
    of_fold = accuracy_of_sets if task.several else accuracy
    metrics = {**metrics_of(task, answers, norm, guesses), "folds": [of_fold(group) for group in predictions]}
    counts = {name: sum(fold.counts[name] for fold in evaluations) for name in evaluations[0].counts}
    counts = {**counts, "rows": task.rows, "empty_renders": task.empty_renders}
    tokens, seconds = sum(fold.tokens for fold in evaluations), sum(fold.seconds for fold in evaluations)
    return Evaluated(metrics, counts, tokens, seconds)


def once(training: Task, held_out: Task, folder: Path, train_and_evaluate: TrainAndEvaluate) -> Evaluated:
    """Trains and evaluates, or loads the result from this folder if it is finished; the seconds include training."""
    if (done := broadcast_object(_finished(folder))) is not None:
        log.info(f"{folder} is finished; skipped.")
        if is_main_process():
            remove_checkpoints(folder)
        return done
    started = time.monotonic()
    if is_main_process():
        folder.mkdir(parents=True, exist_ok=True)
    evaluated = train_and_evaluate(training, held_out, folder)
    evaluated = replace(evaluated, seconds=time.monotonic() - started)
    if is_main_process():
        checksum = file_sha256(folder / PREDICTIONS_FILE)
        write_atomically(folder / FOLD_FILE, to_checked_json({**asdict(evaluated), PREDICTIONS_SHA256: checksum}))
        remove_checkpoints(folder)
    return evaluated


def _finished(folder: Path) -> Evaluated | None:
    """The result that `once` wrote; raises UserError if it or its predictions were changed since."""
    path, remedy = folder / FOLD_FILE, f"Delete {folder}, and resume=true does this fold again."
    if not path.is_file():
        return None
    try:
        fields = from_checked_json(path.read_text(encoding="utf-8"))
        check_sha256(folder / PREDICTIONS_FILE, fields.pop(PREDICTIONS_SHA256, None), remedy)
        return Evaluated(**fields)
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}. {remedy}") from error


def read_predictions(folder: Path) -> list[Prediction]:
    """The predictions, read by the first process and sent to all."""
    found = []
    if is_main_process():
        with (folder / PREDICTIONS_FILE).open(encoding="utf-8") as lines:
            found = [Prediction.from_json(line) for line in lines]
    return broadcast_object(found)
