"""The held-out rows of an adapter's own run, scored as new rows are: same norm, temperature and templates.

A run keeps their scores in `predictions.jsonl`. They were made by the adapter itself (`validation=`, or a data set's
own evaluation split), or with `folds=` by the adapters of the folds.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from tfew.decisions.held_out_scores import HeldOutScores, log_mass
from tfew.errors import UserError
from tfew.prediction.saved_run import SavedRun
from tfew.ranking.norms import available, rescored
from tfew.ranking.temperature import aligned, probabilities
from tfew.runs.identity import differences
from tfew.runs.noted import OF_MODEL
from tfew.runs.records import load_record
from tfew.runs.run_folder import PREDICTIONS_FILE, check_recorded, finished_settings
from tfew.schema import Prediction

REMEDY = "train with folds=5 or validation=0.25, or set threshold=, a probability"
COMPARED = ("model", "max_tokens", "prompt")  # settings that scores depend on


def held_out_scores(
    run: SavedRun, templates: Collection[str], labels: Sequence[str] | None, norm: str, eos: str, temperature: float
) -> HeldOutScores:
    """`templates`: those used for new rows; `labels`: the task's, None if each row has choices of its own.

    Raises UserError if the run has no such rows, or if new rows are scored in another way."""
    folder = run.folder
    settings = None if folder is None else finished_settings(folder)
    if folder is None or settings is None:
        what = "there is no adapter" if folder is None else f"{folder} is an adapter without its run"
        raise UserError(f"{what}, and so there are no held-out rows: set threshold=, a probability.")
    record = load_record(folder)
    if not (folder / PREDICTIONS_FILE).is_file() or not record.counts:
        raise UserError(f"{folder} held no rows out: {REMEDY}.")
    check_recorded(record, folder, PREDICTIONS_FILE)
    _check_scored_alike(run, settings, record.scoring["eos"], eos)
    if (settings.get("templates") or {}).get("eval") == "random":
        raise UserError(
            f"{folder} rendered each held-out row with one random template (templates.eval=random): {REMEDY}."
        )
    found = _read(folder, run.dataset)
    was = str(settings["score"]["norm"])
    if unknown := set(templates) - {prediction.template for prediction in found}:
        raise UserError(f"{folder}: its held-out rows were not rendered with template {min(unknown)!r}: leave it out.")
    # as for new rows: no templates with other choices than the labels; `aligned` drops those that reverse the question
    found = [p for p in found if p.template in templates and (labels is None or len(p.scores) == len(labels))]
    if any(norm not in available(prediction) for prediction in found):
        raise UserError(f"{folder} scored its held-out rows without what score.norm={norm} needs: leave it out.")
    _, scores_RMC, label_R = aligned([rescored(prediction, was, norm) for prediction in found])
    if not len(label_R):
        raise UserError(f"{folder}: none of its held-out rows has a label: {REMEDY}.")
    _, sums_RMC, _ = aligned([rescored(prediction, was, "sum") for prediction in found])
    probability_RC = probabilities(scores_RMC, temperature)
    return HeldOutScores(probability_RC, label_R, log_mass(sums_RMC), in_folds="folds" in record.metrics)


def _check_scored_alike(run: SavedRun, settings: dict[str, Any], was_eos: str, eos: str) -> None:
    ours, theirs = ({key: _unnoted(source.get(key)) for key in COMPARED} for source in (run.settings, settings))
    unlike = differences(ours, theirs)
    if was_eos != eos:
        unlike.append(f"score.eos: {was_eos} there, {eos} here")
    if unlike:
        raise UserError(
            f"The held-out rows of {run.folder} were scored otherwise ({'; '.join(unlike[:3])}), and do not apply to"
            " rows scored like this: leave that setting out, or set threshold=, a probability."
        )


def _unnoted(value: Any) -> Any:
    """A group of settings without the notes about the model's files, which older runs lack."""
    return {key: of_key for key, of_key in value.items() if key not in OF_MODEL} if isinstance(value, dict) else value


def _read(folder: Path, dataset: str) -> list[Prediction]:
    path = folder / PREDICTIONS_FILE
    try:
        with path.open(encoding="utf-8") as lines:
            found = [Prediction.from_json(line) for line in lines]
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}. Make the run again with overwrite=true.") from error
    return [prediction for prediction in found if prediction.dataset == dataset]
