"""What runs answered, counted while their `predictions.jsonl` are read once: confusions, and the hardest rows."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tfew.schema import Prediction


@dataclass(frozen=True)
class Sample:
    """One wrong answer: `margin` is how much better the wrong choice scored than the right one."""

    template: str
    label: int
    predicted: int
    scores: tuple[float, ...]
    margin: float
    run: str


@dataclass
class RowTally:
    """All answers to one row of a data set, over runs and templates; `worst` is the most confident wrong one."""

    asked: int = 0
    wrong: int = 0
    margins: float = 0.0
    wrong_by: Counter[str] = field(default_factory=Counter)
    asked_by: Counter[str] = field(default_factory=Counter)
    worst: Sample | None = None

    @property
    def wrong_share(self) -> float:
        return self.wrong / self.asked

    @property
    def difficulty(self) -> tuple[float, float]:
        """The hardest is wrong most often, and of two that are equally often the more confidently so."""
        return self.wrong_share, self.margins / self.asked


@dataclass
class Answers:
    """`confusions[dataset][variant][label, predicted]` counts answers; `rows[dataset][idx]`; `unread`: why, by run."""

    confusions: dict[str, dict[str, Counter[tuple[int, int]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Counter))
    )
    rows: dict[str, dict[int, RowTally]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(RowTally)))
    runs: Counter[str] = field(default_factory=Counter)
    unread: dict[str, str] = field(default_factory=dict)

    def add(self, variant: str, run: str, predictions: Path) -> None:
        """Counts a run's answers; one whose file is gone or is none counts as a whole or not at all."""
        try:
            with predictions.open(encoding="utf-8") as file:
                found = list(_labelled(file))
        except FileNotFoundError:
            self.unread[run] = f"{predictions.name} is not there"
            return
        except (OSError, ValueError, TypeError) as error:
            self.unread[run] = f"{predictions.name} cannot be read ({type(error).__name__}: {error})"
            return
        for prediction, label in found:
            predicted, scores = prediction.predicted, prediction.scores
            self.confusions[prediction.dataset][variant][label, predicted] += 1
            row = self.rows[prediction.dataset][prediction.idx]
            row.asked += 1
            row.asked_by[variant] += 1
            if predicted != label:
                margin = _margin(scores, label, predicted)
                row.wrong += 1
                row.wrong_by[variant] += 1
                row.margins += margin
                if row.worst is None or margin > row.worst.margin:
                    row.worst = Sample(prediction.template, label, predicted, scores, margin, run)
        self.runs.update({prediction.dataset for prediction, _ in found})

    def hardest(self, dataset: str, most: int) -> list[tuple[int, RowTally]]:
        """Row numbers and tallies, hardest first; rows that are never wrong are none."""
        wrong = [(idx, row) for idx, row in self.rows[dataset].items() if row.wrong]
        return sorted(wrong, key=lambda pair: (pair[1].difficulty, -pair[0]), reverse=True)[:most]


def _labelled(lines: Iterable[str]) -> Iterator[tuple[Prediction, int]]:
    for prediction in map(Prediction.from_json, lines):
        if prediction.label is not None:
            yield prediction, prediction.label


def _margin(scores: Sequence[float], label: int, predicted: int) -> float:
    margin = scores[predicted] - scores[label]
    return margin if math.isfinite(margin) else 0.0
