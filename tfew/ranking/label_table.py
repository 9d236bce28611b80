"""What a person reads of an evaluation with labels: a table by label, what was taken for what, what to doubt."""

from collections.abc import Mapping
from typing import Any

MOST_IN_MATRIX = 10  # labels; of more, the commonest confusions are listed
MOST_LISTED = 10
FEW_ROWS = 5  # with fewer, a label's scores are reported as unreliable


def by_label(metrics: Mapping[str, Any]) -> list[str]:
    """Precision, recall, F1 in percent and rows, label by label; labels without rows and predictions left out."""
    seen = {name: score for name, score in metrics["classes"].items() if score["rows"] or score["predicted"]}
    width = max(map(len, [*seen, "label"]))
    lines = [f"{'label':<{width}}  precision  recall      F1  rows"]
    for name, score in seen.items():
        numbers = "".join(f"{100 * score[key]:{size}.1f}" for key, size in (("precision", 9), ("recall", 8), ("f1", 8)))
        lines.append(f"{name:<{width}}  {numbers}  {score['rows']:4d}")
    return lines


def confusions(metrics: Mapping[str, Any]) -> list[str]:
    """The confusion matrix, or of many labels what was taken for what most often."""
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


def doubts(metrics: Mapping[str, Any], rows: int) -> list[str]:
    """In sentences, what these numbers are too few to tell; empty where they are enough."""
    low, high = metrics["accuracy_interval"]
    accuracy = 100 * metrics["accuracy"]
    found = []
    classes = metrics.get("classes", {})
    without = metrics.get("majority", metrics["chance"])
    naive = f"always saying {max(classes, key=lambda n: classes[n]['rows'])!r}" if classes else "guessing"
    if high < without:
        found.append(
            f"Worse than {naive}: that gives {100 * without:.1f} %, this {accuracy:.1f} % (95 % interval"
            f" {100 * low:.1f} to {100 * high:.1f})."
        )
    elif low <= without:
        found.append(
            f"Too little data to tell: with {rows} rows an accuracy of {accuracy:.1f} % may be anywhere from"
            f" {100 * low:.1f} to {100 * high:.1f} %, and {naive} gives {100 * without:.1f} %."
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
