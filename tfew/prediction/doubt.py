"""Doubtful rows in bulk prediction: the file for a person to review, and the lines in the summary."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tfew.decisions.drift import ALARM, LABEL, MASS, PROBABILITY, DriftReference, Finding
from tfew.errors import UserError
from tfew.prediction.result_rows import review_file
from tfew.prediction.task_predictor import TaskPredictor

if TYPE_CHECKING:
    from tfew.prediction.bulk_predict import BulkPrediction, Progress

log = logging.getLogger(__name__)
MOST_SIZES = 8  # of sets, listed separately
SIGNALS = {
    PROBABILITY: "the label's probability",
    MASS: "the probability of all labels together",
    LABEL: "how often labels are given",
}


def drift_references(tasks: Mapping[str, TaskPredictor]) -> dict[str, DriftReference]:
    """References for the tasks whose run has held-out rows scored like new rows."""
    found = {}
    for name, task in tasks.items():
        try:
            if task.held_out is not None:
                found[name] = DriftReference(task.held_out(), task.labels)
        except UserError as error:
            log.debug(f"{name}: new rows are not compared with held-out ones: {error}")
    return found


def doubt_lines(progress: "Progress", labelling: "BulkPrediction", output: Path | None) -> Iterator[str]:
    """Lines of the summary: rows without a label, sizes of sets, and a warning if scores have drifted."""
    for task, abstained in sorted(progress.abstained.items()):
        rows = abstained + sum(progress.labels.get(task, {}).values())
        threshold = labelling.predictor.tasks[task].decision.threshold
        where = "" if output is None else f"; they are listed in {review_file(output)}"
        yield (
            f"{task}: {abstained:,} of {rows:,} rows ({100 * abstained / rows:.1f} %) got no label, since the likeliest"
            f" is less probable than {threshold:g}{where}"
        )
    for task, sizes in sorted(progress.set_sizes.items()):
        yield f"{task}: sets of labels: {_sizes(sizes)}"
    for task, reference in labelling.references.items():
        if raised := reference.raised(progress.scores.get(task, {})):
            yield drift_warning(task, reference, raised)


def _sizes(sizes: Mapping[str, int]) -> str:
    """The distribution of set sizes, and their mean."""
    counts = sorted((int(size), rows) for size, rows in sizes.items())
    total = sum(rows for _, rows in counts)
    named = [f"{size} label{'s' * (size != 1)} {100 * rows / total:.1f} %" for size, rows in counts[:MOST_SIZES]]
    more = sum(rows for _, rows in counts[MOST_SIZES:])
    rest = [f"more {100 * more / total:.1f} %"] if more else []
    return f"{', '.join([*named, *rest])}; {sum(size * rows for size, rows in counts) / total:.2f} on average"


def drift_warning(task: str, reference: DriftReference, raised: list[Finding]) -> str:
    told = "; ".join(
        f"{SIGNALS[found.signal]} (distance {found.distance:.2f}, p {_p(found.p)}: {found.detail})" for found in raised
    )
    return (
        f"Warning: the rows of {task} look unlike the {reference.rows} held-out rows of its training: {told}. Check"
        f" some by hand; what was estimated on held-out rows may not hold. Without drift at most"
        f" {100 * ALARM:g} % of tables get this warning."
    )


def _p(p: float) -> str:
    return "below 1e-12" if p < 1e-12 else f"{p:.1g}"
