"""Assignment of rows to folds: identical rows are never on both sides."""

import random

import pytest

from tfew.data.split import duplicate_groups, stratified_folds
from tfew.errors import UserError
from tfew.schema import Example, Prompt
from tfew.task import Task
from tfew.training.folds import row_folds


def task(texts: list[str], classes: tuple[str, ...] | None = ("a", "b")) -> Task:
    examples = [Example(number, {"text": text}, number % 2) for number, text in enumerate(texts)]
    prompts = [[Prompt("d", "t", e.idx, e.fields["text"], ("a", "b"), e.label)] for e in examples]
    return Task("d", examples, prompts, 0, classes=classes)


@pytest.mark.parametrize("seed", range(20))
def test_rows_that_are_the_same_are_in_one_fold(seed: int) -> None:
    draw = random.Random(seed)
    texts = [f"text {draw.randrange(25)}" for _ in range(60)]
    fold = row_folds(task(texts), 5, 4, seed)
    for text in set(texts):
        assert len({own for own, other in zip(fold, texts, strict=True) if other == text}) == 1
    sizes = [fold.count(number) for number in range(5)]
    assert sum(sizes) == 60
    assert max(sizes) - min(sizes) <= max(map(texts.count, texts))


@pytest.mark.parametrize("seed", range(20))
def test_without_such_rows_the_folds_are_what_they_were(seed: int) -> None:
    """Dealt out in turn, label by label: written down here once more."""
    labels = random.Random(seed).choices("aaabbc", k=random.Random(seed).randint(10, 70))
    by_label: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        by_label.setdefault(label, []).append(row)
    draw, expected, position = random.Random(f"{seed}/held out"), [0] * len(labels), 0
    for rows in by_label.values():
        draw.shuffle(rows)
        for row in rows:
            expected[row], position = position % 5, position + 1
    assert stratified_folds(labels, 5, seed) == expected
    assert stratified_folds(labels, 5, seed, groups=list(range(len(labels)))) == expected


def test_upper_case_and_blanks_make_no_other_row() -> None:
    assert duplicate_groups(task(["A b", "a  b ", "c", "A b"]).prompts) == [0, 0, 2, 0]
    choices = [("a", "b"), ("a", "c"), ("b", "a")]
    prompts = [[Prompt("d", "t", i, f"{', '.join(some)}: x", some, 0, ((6, 7),))] for i, some in enumerate(choices)]
    assert duplicate_groups(prompts) == [0, 1, 0], "the same question, its choices in another order"


def test_too_few_different_rows() -> None:
    with pytest.raises(UserError, match=r"folds=5, but only 3 of the 12 rows are different.*fewer folds, or more rows"):
        row_folds(task(["x", "y", "z"] * 4), 5, 4, 0)
    with pytest.raises(
        UserError, match=r"folds=2 leaves fewer than batch_size=8 of 12 rows to train on: set batch_size=3"
    ):
        row_folds(task(["x"] * 9 + ["y", "z", "u"]), 2, 8, 0)
