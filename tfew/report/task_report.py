"""`report.html` of one run on a user's own rows: how well it labels them, where it errs, what to do next.

Made from the record, the held-out predictions and the rows themselves. Only this file contains texts of rows; neither
the record nor the adapter has any.
"""

import logging
import math
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfew.checks.finding import Finding
from tfew.decisions.curve import curve_of, in_words, points_of
from tfew.files.atomic import write_atomically
from tfew.ranking.label_set_table import other_lines
from tfew.ranking.label_table import doubts, verdicts
from tfew.ranking.temperature import (
    CALIBRATION_ROWS,
    aligned,
    calibrated_probabilities,
    probabilities,
    reliability,
    top_and_right,
)
from tfew.ranking.tuning import tuning_verdict
from tfew.report.advice import advice
from tfew.report.confusion import Confusion, confusion_of
from tfew.report.hardest_rows import hardest_rows
from tfew.report.page import page_template
from tfew.runs.records import RunRecord
from tfew.runs.run_folder import PREDICTIONS_FILE, REPORT_FILE
from tfew.schema import Prediction
from tfew.task import Task

log = logging.getLogger(__name__)

TEMPLATE = "task.html"
MOST_LABELS = 40  # whose scores are shown
METRICS = {
    "f1_micro": "micro-F1", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "f1_macro": "macro-F1",
}  # fmt: skip
OF_SETS = {"accuracy": "whole set right"}  # of rows with several labels


@dataclass(frozen=True)
class Rival:
    """A line of the comparison; shares, None if unknown. `gain`: the run's advantage over it, in words."""

    name: str
    values: Mapping[str, float | None]
    gain: str | None = None


@dataclass(frozen=True)
class Bin:
    """Rows whose predicted label had about the same probability; shares."""

    rows: int
    confidence: float
    right: float

    @property
    def radius(self) -> float:
        return min(3 + 1.1 * math.sqrt(self.rows), 14)


def write_report(
    folder: Path, record: RunRecord, task: Task | None, findings: Sequence[Finding] | None = None
) -> Path | None:
    """Writes the page; None, after a warning, if that fails: it must not make the run fail."""
    path = folder / REPORT_FILE
    try:
        write_atomically(path, make_page(record, _read(folder), task, findings))
        return path
    except Exception as error:
        log.warning(f"Note: {path} could not be made ({type(error).__name__}: {error}); the run itself is complete.")
        with suppress(OSError):
            path.unlink(missing_ok=True)  # of an earlier attempt
        return None


def make_page(
    record: RunRecord,
    predictions: Sequence[Prediction],
    task: Task | None,
    findings: Sequence[Finding] | None = None,
) -> str:
    """HTML. `task`: the predicted rows, None if there were none; `findings`: None if nothing was checked."""
    metrics, config = record.metrics, record.config
    metric, rivals = metrics.get("leading_metric", "accuracy"), _rivals(metrics)
    calibration = metrics.get("calibration", {})
    columns = _columns(config["dataset"])
    adapter = record.folder if record.command == "train" else config.get("adapter")
    return page_template(TEMPLATE).render(
        record=record,
        metrics=metrics,
        metric=metric,
        names={**{key: title for key, title in METRICS.items() if key in metrics}, **_names_of_sets(metrics)},
        all_names=METRICS,
        tuning_verdict=tuning_verdict(metrics["tuning"]) if "tuning" in metrics else "",
        rivals=rivals,
        has_gains=any(rival.gain for rival in rivals),
        notes=_notes(metrics, record.counts),
        prompt=task.prompts[0][0] if task else None,
        labels=_labels(metrics),
        set_lines=other_lines(metrics) if "label_sets" in metrics else [],
        confusion=_confusion(metrics),
        calibration=calibration,
        calibration_rows=CALIBRATION_ROWS,
        bins=_reliability(predictions),
        answering=_answering(
            predictions, calibration.get("temperature", 1.0), task.unknown_labels if task and not task.several else ()
        ),
        answering_words=in_words(metrics["answering"]) if "answering" in metrics else "",
        hardest=hardest_rows(task, predictions, calibration.get("temperature", 1.0)) if task else [],
        findings=findings,
        columns=columns,
        example=dict.fromkeys(columns, "..."),
        adapter=None if adapter is None else repr(str(adapter)),
        quoted_adapter=None if adapter is None else shlex.quote(f"adapter={adapter}"),
        advice=advice(metrics, record.counts, config, record.parameters["total"]),
    )


def _names_of_sets(metrics: Mapping[str, Any]) -> dict[str, str]:
    return OF_SETS if "label_sets" in metrics else {}


def _columns(dataset: Mapping[str, Any]) -> list[str]:
    """The columns shown to the model, by their names in the table."""
    in_table = {known: name for name, known in (dataset.get("rename") or {}).items()}
    return [in_table.get(column, column) for column in dataset["columns"]]


def _notes(metrics: Mapping[str, Any], counts: Mapping[str, int]) -> list[str]:
    """Sentences: the comparison with the baselines, and what there are too few rows to tell."""
    compared = (
        [f"{verdict[0].upper()}{verdict[1:].removesuffix('.')}." for verdict in verdicts(metrics)]
        if "baselines" in metrics
        else []
    )
    return [*compared, *(doubts(metrics, counts["rows"]) if "accuracy_interval" in metrics else [])]


def _rivals(metrics: Mapping[str, Any]) -> list[Rival]:
    """The run itself first."""
    if "accuracy" not in metrics:
        return []
    run = Rival("this run", {name: metrics.get(name) for name in METRICS})
    baselines = [
        Rival(name, {key: found.get(key) for key in METRICS}, _gain(found["gain"]))
        for name, found in metrics.get("baselines", {}).items()
    ]
    return [run, *baselines, Rival("guessing", {**dict.fromkeys(METRICS), "accuracy": metrics["chance"]})]


def _gain(gain: Mapping[str, Any]) -> str:
    points = " to ".join(f"{100 * gain[key]:.1f}" for key in ("low", "high"))
    return f"{100 * gain['value']:+.1f} ({points})"


def _labels(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Precision, recall and F1 by label; with very many labels, those with rows and the lowest F1."""
    classes = metrics.get("classes", {})
    if len(classes) <= MOST_LABELS:
        return dict(classes)
    with_rows = {name: score for name, score in classes.items() if score["rows"]}
    worst = sorted(with_rows, key=lambda name: with_rows[name]["f1"])[:MOST_LABELS]
    return {name: with_rows[name] for name in worst}


def _confusion(metrics: Mapping[str, Any]) -> Confusion | None:
    if "confusion" not in metrics:
        return None
    counts = Counter({
        (right, answered): count
        for right, row in enumerate(metrics["confusion"])
        for answered, count in enumerate(row)
    })  # fmt: skip
    return confusion_of(counts, list(metrics["classes"]))


def _reliability(predictions: Sequence[Prediction]) -> dict[str, list[Bin]]:
    """Reliability before and, with enough rows, after temperature scaling."""
    _, scores_RMC, label_R = aligned(predictions)
    if not len(label_R):
        return {}
    found = {"as they are": probabilities(scores_RMC, 1.0)}
    if len(label_R) >= CALIBRATION_ROWS:
        found["calibrated"] = calibrated_probabilities(scores_RMC, label_R)
    return {name: _bins(probability_RC, label_R) for name, probability_RC in found.items()}


def _answering(
    predictions: Sequence[Prediction], temperature: float, unknown: Collection[int]
) -> list[tuple[float, float]]:
    """Coverage and accuracy at every threshold; empty if it is the same for all rows."""
    top_R, right_R = top_and_right(predictions, temperature, unknown)
    points = points_of(curve_of(top_R, right_R)) if len(top_R) else ()
    return list(points) if len(points) > 1 else []


def _bins(probability_RC: np.ndarray, label_R: np.ndarray) -> list[Bin]:
    of_bins = zip(*reliability(probability_RC, label_R), strict=True)
    return [Bin(int(rows), float(sure / rows), float(right / rows)) for rows, sure, right in of_bins if rows]


def _read(folder: Path) -> list[Prediction]:
    path = folder / PREDICTIONS_FILE
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as lines:
        return [Prediction.from_json(line) for line in lines]
