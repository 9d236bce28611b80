"""The report's confusion matrices and hardest rows with their texts, from counted answers (`tfew.paper.answers`)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfew.paper.answers import Answers, RowTally, WrongAnswer
from tfew.paper.runs import Run
from tfew.paper.texts import render_prompts
from tfew.report.confusion import MAX_CLASSES, Confusion, confusion_of
from tfew.schema import Prompt

MAX_ROWS = 5
MAX_CHARACTERS = 1200


@dataclass(frozen=True)
class ChoiceResult:
    text: str | None
    score: float
    right: bool
    answered: bool


@dataclass(frozen=True)
class HardRow:
    """A row, its counts, and its most confident wrong answer; `text` None: not available or not wanted.

    `left_out`: characters that were truncated from `text`.
    """

    idx: int
    tally: RowTally
    sample: WrongAnswer
    text: str | None
    left_out: int
    choices: tuple[ChoiceResult, ...]


def confusions(answers: Answers, runs: Sequence[Run]) -> dict[str, list[tuple[str, Confusion]]]:
    """By data set, one per variant, with its name."""
    return {
        dataset: [(variant, _confusion(counts, _class_names(dataset, runs))) for variant, counts in by_variant.items()]
        for dataset, by_variant in sorted(answers.confusions.items())
    }


def hardest_rows(answers: Answers, runs: Sequence[Run], quote: bool) -> dict[str, list[HardRow]]:
    """By data set; with texts if `quote`, and if their choices and label are still those that were ranked."""
    by_name = {run.record.name: run.record for run in runs}
    shown = {}
    for dataset in sorted(answers.rows):
        found = [(idx, row, row.worst) for idx, row in answers.hardest(dataset, MAX_ROWS) if row.worst is not None]
        if not found:
            continue
        wanted = [(idx, sample.template) for idx, _, sample in found]
        prompts = render_prompts(by_name[found[0][2].run], dataset, wanted) if quote else {}
        shown[dataset] = [
            _hard_row(idx, row, sample, prompts.get((idx, sample.template))) for idx, row, sample in found
        ]
    return shown


def _confusion(counts: Counter[tuple[int, int]], names: Sequence[str]) -> Confusion:
    count = 1 + max(max(pair) for pair in counts)
    return confusion_of(counts, [names[n] if n < len(names) else f"choice {n + 1}" for n in range(count)])


def _class_names(dataset: str, runs: Sequence[Run]) -> list[str]:
    """The data set's labels, if it has any: templates list their choices in the labels' order."""
    for run in runs:
        described = run.record.config.get("dataset") or {}
        if run.record.dataset == dataset:
            return _label_names(described)
        if member := (described.get("members") or {}).get(dataset):
            return _label_names(member)
    return []


def _label_names(described: Mapping[str, Any]) -> list[str]:
    names = (described.get("label") or {}).get("names") or []
    return [str(name[0] if isinstance(name, list) and name else name) for name in names]


def _hard_row(idx: int, row: RowTally, sample: WrongAnswer, prompt: Prompt | None) -> HardRow:
    if prompt is not None and (len(prompt.choices) != len(sample.scores) or prompt.label != sample.label):
        prompt = None  # the data has changed since the run
    choices = tuple(
        ChoiceResult(prompt.choices[place] if prompt else None, score, place == sample.label, place == sample.predicted)
        for place, score in enumerate(sample.scores)
    )
    if len(choices) > MAX_CLASSES:
        choices = tuple(choice for choice in choices if choice.right or choice.answered)
    text = prompt.input if prompt else None
    left_out = max(0, len(text) - MAX_CHARACTERS) if text else 0
    return HardRow(idx, row, sample, text[:MAX_CHARACTERS] if text else None, left_out, choices)
