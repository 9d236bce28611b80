"""Confusions and the hardest rows, counted in one pass over the runs' `predictions.jsonl`."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tfew.schema import Prediction


@dataclass(frozen=True)
class WrongAnswer:
    """One wrong answer; `margin` is its score minus the right choice's."""

    template: str
    label: int
    predicted: int
    scores: tuple[float, ...]
    margin: float
    run: str


@dataclass
class RowTally:
    """Counts of the answers to one row, over runs and templates; `worst` is the most confident wrong one."""

    total: int = 0
    wrong: int = 0
    margin_sum: float = 0.0
    wrong_by_variant: Counter[str] = field(default_factory=Counter)
    total_by_variant: Counter[str] = field(default_factory=Counter)
    worst: WrongAnswer | None = None

    @property
    def wrong_share(self) -> float:
        return self.wrong / self.total

    @property
    def difficulty(self) -> tuple[float, float]:
        """Sort key: the share of wrong answers, then their mean margin."""
        return self.wrong_share, self.margin_sum / self.total


@dataclass
class Answers:
    """`confusions[dataset][variant][label, predicted]`, `rows[dataset][idx]`; `unreadable`: the reason, by run."""

    confusions: dict[str, dict[str, Counter[tuple[int, int]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Counter))
    )
    rows: dict[str, dict[int, RowTally]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(RowTally)))
    runs: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, str] = field(default_factory=dict)

    def add(self, variant: str, run: str, predictions: Path) -> None:
        """Counts a run's answers; none of them if any part of the file cannot be read."""
        try:
            with predictions.open(encoding="utf-8") as file:
                found = list(_labelled(file))
        except FileNotFoundError:
            self.unreadable[run] = f"{predictions.name} is not there"
            return
        except (OSError, ValueError, TypeError) as error:
            self.unreadable[run] = f"{predictions.name} cannot be read ({type(error).__name__}: {error})"
            return
        for prediction, label in found:
            predicted, scores = prediction.predicted, prediction.scores
            self.confusions[prediction.dataset][variant][label, predicted] += 1
            row = self.rows[prediction.dataset][prediction.idx]
            row.total += 1
            row.total_by_variant[variant] += 1
            if predicted != label:
                margin = _margin(scores, label, predicted)
                row.wrong += 1
                row.wrong_by_variant[variant] += 1
                row.margin_sum += margin
                if row.worst is None or margin > row.worst.margin:
                    row.worst = WrongAnswer(prediction.template, label, predicted, scores, margin, run)
        self.runs.update({prediction.dataset for prediction, _ in found})

    def hardest(self, dataset: str, limit: int) -> list[tuple[int, RowTally]]:
        """Row numbers and tallies, hardest first, without rows that are always right."""
        wrong = [(idx, row) for idx, row in self.rows[dataset].items() if row.wrong]
        return sorted(wrong, key=lambda pair: (pair[1].difficulty, -pair[0]), reverse=True)[:limit]


def _labelled(lines: Iterable[str]) -> Iterator[tuple[Prediction, int]]:
    for prediction in map(Prediction.from_json, lines):
        if prediction.label is not None:
            yield prediction, prediction.label


def _margin(scores: Sequence[float], label: int, predicted: int) -> float:
    margin = scores[predicted] - scores[label]
    return margin if math.isfinite(margin) else 0.0
