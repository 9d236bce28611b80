"""Counted answers (`tfew.paper.answers`) as the report shows them: confusions, and the hardest rows with texts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfew.paper.answers import Answers, RowTally, Sample
from tfew.paper.runs import Run
from tfew.paper.texts import prompts_of
from tfew.schema import Prompt

MOST_CLASSES = 12  # of a matrix that can be read; of more, the commonest mistakes are listed
MOST_PAIRS = 10
MOST_ROWS = 5
MOST_CHARACTERS = 1200


@dataclass(frozen=True)
class Confusion:
    """`counts[right][answered]`; with many classes none, and `pairs` are the commonest (right, answered, count)."""

    variant: str
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[str, str, int], ...]
    answers: int
    right: int


@dataclass(frozen=True)
class ShownChoice:
    text: str | None
    score: float
    right: bool
    answered: bool


@dataclass(frozen=True)
class HardRow:
    """A row, how often it was answered wrong, and the most confident wrong answer; `text` None where it is not shown.

    `left_out` counts characters that were cut from it.
    """

    idx: int
    tally: RowTally
    sample: Sample
    text: str | None
    left_out: int
    choices: tuple[ShownChoice, ...]


def confusions(answers: Answers, runs: Sequence[Run]) -> dict[str, list[Confusion]]:
    """By data set, one per variant."""
    return {
        dataset: [_confusion(variant, counts, _class_names(dataset, runs)) for variant, counts in by_variant.items()]
        for dataset, by_variant in sorted(answers.confusions.items())
    }


def hardest_rows(answers: Answers, runs: Sequence[Run], quote: bool) -> dict[str, list[HardRow]]:
    """By data set; texts only where `quote`, and only those whose choices and label are the ones that were ranked."""
    by_name = {run.record.name: run.record for run in runs}
    shown = {}
    for dataset in sorted(answers.rows):
        found = [(idx, row, row.worst) for idx, row in answers.hardest(dataset, MOST_ROWS) if row.worst is not None]
        if not found:
            continue
        wanted = [(idx, sample.template) for idx, _, sample in found]
        prompts = prompts_of(by_name[found[0][2].run], dataset, wanted) if quote else {}
        shown[dataset] = [
            _hard_row(idx, row, sample, prompts.get((idx, sample.template))) for idx, row, sample in found
        ]
    return shown


def _confusion(variant: str, counts: Counter[tuple[int, int]], names: Sequence[str]) -> Confusion:
    count = 1 + max(max(pair) for pair in counts)
    classes = [names[place] if place < len(names) else f"choice {place + 1}" for place in range(count)]
    few = count <= MOST_CLASSES
    wrong = [(pair, number) for pair, number in counts.most_common() if pair[0] != pair[1]]
    return Confusion(
        variant,
        tuple(classes),
        tuple(tuple(counts[right, answered] for answered in range(count)) for right in range(count)) if few else (),
        () if few else tuple((classes[pair[0]], classes[pair[1]], number) for pair, number in wrong[:MOST_PAIRS]),
        counts.total(),
        sum(number for (right, answered), number in counts.items() if right == answered),
    )


def _class_names(dataset: str, runs: Sequence[Run]) -> list[str]:
    """The data set's labels, where it has any: a class is a place among a template's choices, which follow them."""
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


def _hard_row(idx: int, row: RowTally, sample: Sample, prompt: Prompt | None) -> HardRow:
    if prompt is not None and (len(prompt.choices) != len(sample.scores) or prompt.label != sample.label):
        prompt = None  # the data is not what it was
    choices = tuple(
        ShownChoice(prompt.choices[place] if prompt else None, score, place == sample.label, place == sample.predicted)
        for place, score in enumerate(sample.scores)
    )
    if len(choices) > MOST_CLASSES:
        choices = tuple(choice for choice in choices if choice.right or choice.answered)
    text = prompt.input if prompt else None
    left_out = max(0, len(text) - MOST_CHARACTERS) if text else 0
    return HardRow(idx, row, sample, text[:MOST_CHARACTERS] if text else None, left_out, choices)
