"""What to do next, from a run's numbers: sentences, each with the setting to use."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfew.ranking.label_table import FEW_ROWS
from tfew.ranking.temperature import CALIBRATION_ROWS

GOOD_HALF_WIDTH = 0.05  # of the interval of an accuracy
WEAK_RECALL = 0.15  # below the accuracy, or for several labels per row below the overall recall
OFTEN_CONFUSED = 3  # times
SMALL_MODEL_PARAMETERS = 1_000_000_000


def advice(
    metrics: Mapping[str, Any], counts: Mapping[str, int], config: Mapping[str, Any], parameters: int
) -> list[str]:
    """`parameters`: of the base model."""
    if "accuracy" not in metrics:
        return ["No rows were held out, so the accuracy is unknown: set folds=5, or validation=0.25."]
    return [
        *_more_rows(metrics, counts),
        *_labels(metrics),
        *_settings(metrics, counts, config),
        *_model(parameters),
    ]


def _more_rows(metrics: Mapping[str, Any], counts: Mapping[str, int]) -> Iterator[str]:
    low, high = metrics.get("accuracy_interval", (0, 0))
    half = (high - low) / 2
    if half > GOOD_HALF_WIDTH:
        rows = math.ceil(counts["rows"] * (half / GOOD_HALF_WIDTH) ** 2 / 10) * 10
        yield (
            f"More labelled rows: {counts['rows']} leave the accuracy uncertain by ±{100 * half:.0f} points,"
            f" about {rows:,} by ±{100 * GOOD_HALF_WIDTH:.0f}; and training on more rows usually raises it."
        )
    if metrics["calibration"]["rows"] < CALIBRATION_ROWS:
        yield f"Calibrating probabilities needs at least {CALIBRATION_ROWS} held-out rows."


def _labels(metrics: Mapping[str, Any]) -> Iterator[str]:
    classes, usual = metrics.get("classes", {}), metrics.get("recall_micro", metrics["accuracy"])
    weak = {
        name: score["recall"]
        for name, score in classes.items()
        if score["rows"] >= FEW_ROWS and score["recall"] < usual - WEAK_RECALL
    }
    if weak:
        name = min(weak, key=weak.__getitem__)
        yield f"More rows of {name!r}: only {100 * weak[name]:.0f} % of its rows are found."
    if pair := _most_confused(list(classes), metrics.get("confusion", ())):
        given, answered, times = pair
        yield (
            f"{given!r} is taken for {answered!r} {times} times. Explain them in the prompt (template=), choose"
            " words that tell them apart (choices=), or merge them if they overlap."
        )


def _most_confused(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> tuple[str, str, int] | None:
    wrong = [
        (count, given, answered)
        for given, row in enumerate(confusion)
        for answered, count in enumerate(row)
        if given != answered
    ]
    count, given, answered = max(wrong, key=lambda item: item[0], default=(0, 0, 0))
    return (names[given], names[answered], count) if count >= OFTEN_CONFUSED else None


def _settings(metrics: Mapping[str, Any], counts: Mapping[str, int], config: Mapping[str, Any]) -> Iterator[str]:
    if counts.get("cut_prompts"):
        yield (
            f"{counts['cut_prompts']} of {counts['prompts']} prompts were truncated at"
            f" max_tokens={config['max_tokens']}: a larger max_tokens= shows the model more of them."
        )
    if "tuning" not in metrics and (config.get("folds") or config.get("validation")):
        yield "tune=true tries other numbers of steps and learning rates on the same held-out rows."


def _model(parameters: int) -> Iterator[str]:
    if parameters < SMALL_MODEL_PARAMETERS:
        yield f"Try a larger model (model=); this one has {parameters / 1e6:,.0f} million parameters."
