"""The summary of an evaluation of rows with several labels, in sentences."""

from collections.abc import Mapping
from typing import Any

from tfew.label_sets.thresholds import DEFAULT, FEWEST


def first_line(metrics: Mapping[str, Any], rows: int) -> str:
    where = "held-out rows, each by an adapter that was trained without it" if "folds" in metrics else "rows"
    low, high = metrics["f1_micro_interval"]
    interval = f"95 % interval {100 * low:.1f} to {100 * high:.1f}"
    return f"micro-F1 {_percent(metrics['f1_micro'])} ({interval}) on {rows} {where}"


def baseline_line(metrics: Mapping[str, Any]) -> str:
    """Every baseline's micro-F1, and in brackets how often its set is right."""
    return "; ".join(
        f"{name} {_percent(scores['f1_micro'])} (whole set right {_percent(scores['accuracy'])})"
        for name, scores in metrics["baselines"].items()
    )


def other_lines(metrics: Mapping[str, Any]) -> list[str]:
    """The other metrics, and the effect of thresholds."""
    low, high = metrics["accuracy_interval"]
    sets = metrics["label_sets"]
    same, default = _percent(sets["same_rows"]["f1_micro"]), _percent(sets["at_default"]["f1_micro"])
    interval = f"95 % interval {100 * low:.1f} to {100 * high:.1f}"
    lines = [
        f"macro-F1 {_percent(metrics['f1_macro'])}; whole set of labels right {_percent(metrics['accuracy'])}"
        f" ({interval}); {sets['labels_a_row']:.1f} labels a row",
        _by_saved(sets, default)
        if "cross_fitted" in sets
        else f"each row was labelled by thresholds chosen on other rows; with {DEFAULT:g} for all labels micro-F1 is"
        f" {default}; with thresholds chosen on these same rows, {same}, which is optimistic",
    ]
    if few := sets["shared_threshold"]:
        lines.append(f"labels that fewer than {FEWEST} rows have, or lack, share one threshold: {', '.join(few)}")
    return lines


def _by_saved(sets: Mapping[str, Any], default: str) -> str:
    return (
        "each row was labelled by the adapter's saved thresholds, as tfew predict does; with thresholds chosen on other"
        f" rows of this table micro-F1 is {_percent(sets['cross_fitted']['f1_micro'])}; with {DEFAULT:g} for all"
        f" labels, {default}"
    )


def passes_line(labels: int, engine: str, passes: int) -> str:
    """How many forward passes texts need; `passes`: the number of texts times templates."""
    if engine == "plain":
        return (
            f"{passes:,} texts with {2 * labels} answers each were scored; engine=plain repeats a text for each answer,"
            " unless an encoder reads it"
        )
    return f"{passes:,} texts were scored, each computed once for all its {labels} yes/no questions (engine=fast)"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
