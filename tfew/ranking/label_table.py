"""An evaluation with labels as text: a table by label, confusions, verdicts, and what is unreliable."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfew.ranking.baselines import ALWAYS, BAG_OF_WORDS
from tfew.ranking.label_set_table import baseline_line, first_line, other_lines

REMEDY = "Try a larger model (model=), more steps (steps=) or more labelled rows"
CHEAPER = "; otherwise use the bag of words itself, which is far cheaper"
MOST_IN_MATRIX = 10  # labels; with more, the commonest confusions are listed
MOST_LISTED = 10
FEW_ROWS = 5  # with fewer, a label's scores are reported as unreliable


def by_label(metrics: Mapping[str, Any]) -> list[str]:
    """Precision, recall, F1 in percent and rows, label by label; labels without rows and predictions left out."""
    seen = {name: score for name, score in metrics["classes"].items() if score["rows"] or score["predicted"]}
    width = max(map(len, [*seen, "label"]))
    has_thresholds = any("threshold" in score for score in seen.values())
    lines = [f"{'label':<{width}}  precision  recall      F1  rows{'  threshold' * has_thresholds}"]
    for name, score in seen.items():
        numbers = "".join(f"{100 * score[key]:{size}.1f}" for key, size in (("precision", 9), ("recall", 8), ("f1", 8)))
        threshold = f"  {score['threshold']:9.3f}" if "threshold" in score else ""
        lines.append(f"{name:<{width}}  {numbers}  {score['rows']:4d}{threshold}")
    return lines


def confusions(metrics: Mapping[str, Any]) -> list[str]:
    """The confusion matrix, or with many labels the most frequent confusions."""
    names, counts = list(metrics["classes"]), metrics["confusion"]
    if len(names) > MOST_IN_MATRIX:
        wrong = [
            (count, f"{names[label]} taken for {names[predicted]}: {count}")
            for label, row in enumerate(counts)
            for predicted, count in enumerate(row)
            if label != predicted and count
        ]
        return [line for _, line in sorted(wrong, key=lambda item: -item[0])[:MOST_LISTED]]
    corner = "label, predicted as"
    width = max(map(len, [*names, corner]))
    columns = [max(len(name), 4) for name in names]
    header = "  ".join(f"{name:>{size}}" for name, size in zip(names, columns, strict=True))
    return [f"{corner:<{width}}  {header}"] + [
        f"{name:<{width}}  " + "  ".join(f"{count:>{size}}" for count, size in zip(row, columns, strict=True))
        for name, row in zip(names, counts, strict=True)
    ]


def headline(metrics: Mapping[str, Any], rows: int) -> list[str]:
    """The leading accuracy, with its interval; the baselines on the same rows; the other metrics."""
    if "label_sets" in metrics:
        return headline_of_sets(metrics, rows)
    what = "held-out rows, each by an adapter that was trained without it" if "folds" in metrics else "rows"
    accuracy = f"accuracy {_percent(metrics['accuracy'])} ({_interval(metrics['accuracy_interval'])})"
    first, others = accuracy, []
    if "f1_macro" in metrics:
        others.append(f"macro-F1 {_percent(metrics['f1_macro'])}")
    if metrics.get("leading_metric") == "balanced_accuracy":
        balanced = f"balanced accuracy {_percent(metrics['balanced_accuracy'])}"
        first = f"{balanced} ({_interval(metrics['balanced_accuracy_interval'])})"
        others.append(f"{accuracy} is less informative, as labels are imbalanced")
    first += f" on {rows} {what}"
    if "baselines" not in metrics:
        return [f"{first}; chance {_percent(metrics['chance'])}", *(["; ".join(others)] if others else [])]
    baselines = "; ".join(_described(name, scores) for name, scores in metrics["baselines"].items())
    return [first, baselines, *verdicts(metrics), "; ".join(others)]


def headline_of_sets(metrics: Mapping[str, Any], rows: int) -> list[str]:
    """`headline` for rows with several labels."""
    compared = [baseline_line(metrics), *verdicts(metrics)] if "baselines" in metrics else []
    return [first_line(metrics, rows), *compared, *other_lines(metrics)]


def _described(name: str, scores: Mapping[str, Any]) -> str:
    if scores["gain"]["metric"] == "accuracy":
        return f"{name} {_percent(scores['accuracy'])}"
    return f"{name} {_percent(scores['balanced_accuracy'])} (accuracy {_percent(scores['accuracy'])})"


def verdicts(metrics: Mapping[str, Any]) -> list[str]:
    """Sentences: how much better or worse the model is than the best baseline, and any other not clearly beaten.

    If it is worse than the best, also what to try.
    """
    baselines = metrics["baselines"]
    best = max(baselines, key=lambda name: baselines[name][baselines[name]["gain"]["metric"]])
    told = [name for name, scores in baselines.items() if name == best or scores["gain"]["low"] <= 0]
    articles = {BAG_OF_WORDS: "a ", ALWAYS: ""}
    lines = [_verdict(f"{articles.get(name, 'the ')}{name}", baselines[name]["gain"]) for name in told]
    if baselines[best]["gain"]["value"] < 0:
        lines.append(f"{REMEDY}{CHEAPER if best == BAG_OF_WORDS else ''}.")
    return lines


def _verdict(baseline: str, gain: Mapping[str, Any]) -> str:
    points, low, high = (100 * gain[key] for key in ("value", "low", "high"))
    of = {"accuracy": "", "f1_micro": " of micro-F1"}.get(gain["metric"], " of balanced accuracy")
    few = ": too few rows to tell" if low <= 0 <= high else ""
    if not points:
        return f"no better than {baseline} (95 % interval of the difference {low:.1f} to {high:.1f} points{of}){few}"
    if points < 0:
        points, low, high = -points, -high, -low
        return f"worse than {baseline} by {points:.1f} points{of} (95 % interval {low:.1f} to {high:.1f}){few}"
    return f"better than {baseline} by {points:.1f} points{of} (95 % interval {low:.1f} to {high:.1f}){few}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(ends: Sequence[float]) -> str:
    return f"95 % interval {100 * ends[0]:.1f} to {100 * ends[1]:.1f}"


def doubts(metrics: Mapping[str, Any], rows: int) -> list[str]:
    """Sentences: what these rows cannot tell; empty if there is nothing of the kind."""
    classes = metrics.get("classes", {})
    found = [] if "baselines" in metrics or "label_sets" in metrics else _against_guessing(metrics, rows)
    if trained_on := metrics.get("trained_on"):
        found.append(
            f"The adapter was trained on {trained_on} of these {rows} rows: the numbers say little about new rows, and"
            " there is no comparison with a bag of words."
        )
    elif "trained_on" in metrics:
        found.append(
            "The table that the adapter was trained on has changed since, so it cannot be told how many of these"
            f" {rows} rows it was trained on: of those the numbers say little, and there is no comparison with a bag of"
            " words."
        )
    rare = [f"{name} ({score['rows']})" for name, score in classes.items() if 0 < score["rows"] < FEW_ROWS]
    if rare:
        listing = ", ".join(rare[:MOST_LISTED]) + (f" and {len(rare) - MOST_LISTED} more" if rare[MOST_LISTED:] else "")
        found.append(f"Too few rows (below {FEW_ROWS}) for the numbers of: {listing}.")
    if absent := [name for name, score in classes.items() if not score["rows"]]:
        more = f" and {len(absent) - MOST_LISTED} more" if absent[MOST_LISTED:] else ""
        listing = ", ".join(absent[:MOST_LISTED]) + more
        found.append(f"{len(absent)} of {len(classes)} labels have no row here: nothing is known about {listing}.")
    if unknown := metrics.get("unknown_labels"):
        listing = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items())[:MOST_LISTED])
        found.append(
            f"{sum(unknown.values())} rows have labels that the task does not have, and count as errors: {listing}"
            f"{' ...' * (len(unknown) > MOST_LISTED)}; labels=strict refuses them."
        )
    return found


def _against_guessing(metrics: Mapping[str, Any], rows: int) -> list[str]:
    """Without a comparison row by row: whether the accuracy's interval includes that of a constant answer."""
    low, high = metrics["accuracy_interval"]
    accuracy, without, naive = 100 * metrics["accuracy"], metrics["chance"], "guessing"
    if labels := {name: score["rows"] for name, score in metrics.get("classes", {}).items()}:
        without = max(labels.values()) / sum(labels.values())
        naive = f"always saying {max(labels, key=labels.__getitem__)!r}"
    if high < without:
        return [
            f"Worse than {naive}: that gives {100 * without:.1f} %, this {accuracy:.1f} % (95 % interval"
            f" {100 * low:.1f} to {100 * high:.1f})."
        ]
    if low <= without:
        return [
            f"Too little data to tell: with {rows} rows an accuracy of {accuracy:.1f} % may be anywhere from"
            f" {100 * low:.1f} to {100 * high:.1f} %, and {naive} gives {100 * without:.1f} %."
        ]
    return []
