"""Tries a few settings on held-out rows and selects the best (`tune=true`).

Each setting has its own folder under the run's; an interrupted run resumes with the setting, and the fold, that it was
in.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tfew.ranking.evaluation import Evaluated, metrics_of, write_predictions
from tfew.ranking.icl import Answer
from tfew.ranking.tuning import Setting, summarise_tuning
from tfew.runs.run_folder import setting_folder
from tfew.schema import Prediction
from tfew.task import Task
from tfew.training.cross_validation import read_predictions

log = logging.getLogger(__name__)


def tune(
    tried: Sequence[Setting],
    validate: Callable[[Setting, Path, int], Evaluated],
    task: Task,
    fold_by_idx: Mapping[int, int],
    folder: Path,
    norm: str,
) -> tuple[Setting, Evaluated]:
    """The best setting and its evaluation, with all settings' results as `tuning` in its metrics, and all seconds.

    `validate` evaluates one setting in a folder, and gets the number of settings that follow. `task`: the rows that are
    held out, in these folds. The predictions of the best setting become the run's.
    """
    evaluations, predictions = [], []
    for place, setting in enumerate(tqdm(tried, desc="Tuning", unit="setting")):
        log.info(f"Setting {place + 1} of {len(tried)}: {setting}.")
        own = setting_folder(folder, place)
        evaluations.append(validate(setting, own, len(tried) - place - 1))
        predictions.append(read_predictions(own))

    def summarise(of_setting: Sequence[Prediction]) -> dict[str, Any]:
        return metrics_of(task, [Answer.of(prediction, norm) for prediction in of_setting], norm)

    tuning = summarise_tuning(tried, predictions, fold_by_idx, summarise)
    best = tuning["chosen"]
    write_predictions(folder, predictions[best])
    metrics = {**evaluations[best].metrics, "tuning": tuning}
    return tried[best], replace(evaluations[best], metrics=metrics, seconds=sum(e.seconds for e in evaluations))
