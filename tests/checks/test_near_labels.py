"""Labels with the same words."""

import pytest

from tests.checks.test_task_check import said, task
from tfew.checks.near_labels import near_identical


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("lost card", "card lost"), ("lost card", "Lost Cards"), ("lost-card!", "lost card"), ("city", "cities"),
        ("box", "boxes"), ("batch", "batches"), ("verlorene_karte", "karte verlorene"),
    ],
)  # fmt: skip
def test_order_plural_and_case_make_no_label(first: str, second: str) -> None:
    assert near_identical([first, "something else", second]) == [[0, 2]]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("lost card", "found card"), ("status", "statu"), ("glass", "glas"), ("card", "card card"), ("+", "-"),
        ("this", "thi"), ("is it", "i it"),
    ],
)  # fmt: skip
def test_what_is_not_the_same(first: str, second: str) -> None:
    assert near_identical([first, second]) == []


def test_the_check_names_them_once() -> None:
    (line,) = [found for found in said(task(names=("lost card", "cards lost", "fine"))) if "same words" in found]
    assert "'lost card' (4 rows) and 'cards lost' (4 rows)" in line
    assert line.startswith("warning: ")
    other_words = said(task(names=("lost card", "cards lost"), words=("good", "bad")))
    assert not any("same words" in found for found in other_words), "what the model says is what counts"
    assert not any("same words" in found for found in said(task(names=("Good", "good")))), "an error of its own"
