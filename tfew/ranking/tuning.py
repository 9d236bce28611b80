"""Chooses the best of a few settings on held-out rows, and estimates the bias of its score (`tune=true`).

The best of several is also the luckiest: its score is an optimistic estimate for the chosen setting on new rows (Varma
and Simon 2006, doi 10.1186/1471-2105-7-91). So the choice itself is cross-validated: it is made on all folds but one,
and the chosen setting is scored on the remaining fold. This reuses the predictions; nothing more is trained. A choice
on all folds is slightly better than one on all but one, so the estimate is conservative.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfew.ranking.per_label_metrics import balanced_accuracy, confusion
from tfew.schema import Prediction

# of steps and learning rate, the given ones first; the others most often help: a higher or lower learning rate, and
# more or fewer steps
MULTIPLES = ((1, 1), (1, 3), (1, 1 / 3), (2, 1), (2, 1 / 3), (1 / 2, 1))
NAMES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "f1_micro": "micro-F1"}


@dataclass(frozen=True)
class Setting:
    steps: int
    lr: float

    def __str__(self) -> str:
        return f"steps={self.steps} optimizer.lr={self.lr:g}"


def settings_to_try(steps: int, lr: float, tune: bool = True) -> list[Setting]:
    """At most six, all different, the given one first; without `tune` that alone."""
    if not tune:
        return [Setting(steps, lr)]
    fewest = min(steps, 2)  # the first step's learning rate is 0
    others = [Setting(max(fewest, round(steps * more)), float(f"{lr * faster:.2g}")) for more, faster in MULTIPLES[1:]]
    return list(dict.fromkeys([Setting(steps, lr), *others]))


def best_place(values: Sequence[float], losses: Sequence[float]) -> int:
    """The index of the highest value; ties go to the lowest loss, then to the first."""
    return min(range(len(values)), key=lambda place: (-values[place], losses[place], place))


def choices_without_own_fold(
    score: Callable[[int, Sequence[int]], tuple[float, float]], settings: int, fold_of_row: Sequence[int]
) -> list[int]:
    """For each row the setting that is best on the rows of all other folds.

    `score`: value and loss of a setting, by its index, on some rows.
    """
    chosen = {}
    for fold in set(fold_of_row):
        others = [row for row, own in enumerate(fold_of_row) if own != fold]
        values, losses = zip(*(score(place, others) for place in range(settings)), strict=True)
        chosen[fold] = best_place(values, losses)
    return [chosen[fold] for fold in fold_of_row]


def summarise_tuning(
    settings: Sequence[Setting],
    predictions: Sequence[Sequence[Prediction]],
    fold_of_row: Mapping[int, int],
    summarise: Callable[[Sequence[Prediction]], Mapping[str, Any]],
) -> dict[str, Any]:
    """metric; settings: [{steps, lr, value, interval, loss}]; chosen, an index; value, its own; nested_value and
    nested_interval, of the choice evaluated on rows that it did not use; optimism, the difference.

    `predictions`: of each setting, all in the same order; `fold_of_row`: by `idx`. `summarise`: the metrics of
    predictions, the leading one among them.
    """
    found = [summarise(of_setting) for of_setting in predictions]
    metric = str(found[0].get("leading_metric", "accuracy"))
    labelled = [row for row, prediction in enumerate(predictions[0]) if prediction.label is not None]
    losses = [[_loss(of_setting[row]) for row in labelled] for of_setting in predictions]

    def score(place: int, rows: Sequence[int]) -> tuple[float, float]:
        of_rows = [predictions[place][labelled[row]] for row in rows]
        value = float(summarise(of_rows)[metric]) if metric == "f1_micro" else _value(metric, of_rows)
        return value, sum(losses[place][row] for row in rows) / len(rows)

    values = [float(metrics[metric]) for metrics in found]
    mean_losses = [sum(of_setting) / len(of_setting) for of_setting in losses]
    best = best_place(values, mean_losses)
    folds = [fold_of_row[predictions[0][row].idx] for row in labelled]
    own = choices_without_own_fold(score, len(settings), folds)
    nested = summarise([predictions[place][row] for place, row in zip(own, labelled, strict=True)])
    return {
        "metric": metric,
        "settings": [
            {
                "steps": setting.steps,
                "lr": setting.lr,
                "value": value,
                "interval": metrics.get(f"{metric}_interval"),
                "loss": loss,
            }
            for setting, value, metrics, loss in zip(settings, values, found, mean_losses, strict=True)
        ],
        "chosen": best,
        "value": values[best],
        "nested_value": nested[metric],
        "nested_interval": nested.get(f"{metric}_interval"),
        "optimism": values[best] - nested[metric],
    }


def _value(metric: str, predictions: Sequence[Prediction]) -> float:
    pairs = [(prediction.label or 0, prediction.predicted) for prediction in predictions]
    if metric == "balanced_accuracy":
        return balanced_accuracy(confusion(pairs, max(len(prediction.scores) for prediction in predictions)))
    return sum(label == predicted for label, predicted in pairs) / len(pairs)


def _loss(prediction: Prediction) -> float:
    """-log softmax of the label's score."""
    highest = max(prediction.scores)
    total = sum(math.exp(score - highest) for score in prediction.scores)
    return highest + math.log(total) - prediction.scores[prediction.label or 0]


def tuning_table(tuning: Mapping[str, Any]) -> list[str]:
    """The settings tried, for a terminal; the chosen one has a star."""
    lines = [f"  {'steps':>7}  {'learning rate':>13}  {NAMES[tuning['metric']]:>17}  {'95 % interval':>13}    loss"]
    for place, tried in enumerate(tuning["settings"]):
        interval = "" if tried["interval"] is None else " to ".join(f"{100 * end:.1f}" for end in tried["interval"])
        lines.append(
            f"{'*' if place == tuning['chosen'] else ' '} {tried['steps']:>7,}  {tried['lr']:>13.2g}"
            f"  {100 * tried['value']:>17.1f}  {interval:>13}  {tried['loss']:6.3f}"
        )
    return lines


def tuning_verdict(tuning: Mapping[str, Any]) -> str:
    """A sentence on how optimistic the chosen setting's score is."""
    chosen, tried = tuning["settings"][tuning["chosen"]], len(tuning["settings"])
    interval = tuning["nested_interval"]
    sure = "" if interval is None else f" (95 % interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
    points = 100 * tuning["optimism"]
    less = f"{points:.1f} points less" if points >= 0.05 else "no less here"
    return (
        f"Of {tried} settings {Setting(chosen['steps'], chosen['lr'])} was chosen, with {NAMES[tuning['metric']]}"
        f" {100 * tuning['value']:.1f} %. That is optimistic, as the best of {tried} is also the luckiest: chosen on"
        f" all folds but one and evaluated on that one it is {100 * tuning['nested_value']:.1f} %{sure}, {less}."
    )
