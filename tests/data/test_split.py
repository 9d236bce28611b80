"""Folds and draws: every row once, labels distributed as evenly as possible."""

import random
from collections import Counter

import pytest

from tfew.data.split import (
    held_out_groups,
    held_out_rows,
    rare_labels,
    stratified_folds,
    stratified_parts,
    stratified_sample,
)


def made(seed: int) -> list[str]:
    draw = random.Random(seed)
    return draw.choices("aaaabbc", k=draw.randint(6, 60))


@pytest.mark.parametrize("seed", range(30))
def test_folds_are_even_in_size_and_in_every_label(seed: int) -> None:
    labels = made(seed)
    for folds in (2, 5):
        fold = stratified_folds(labels, folds, seed)
        assert len(fold) == len(labels)
        sizes = [fold.count(number) for number in range(folds)]
        assert sum(sizes) == len(labels)
        assert max(sizes) - min(sizes) <= 1
        for label in set(labels):
            of_label = Counter(number for number, own in zip(fold, labels, strict=True) if own == label)
            counts = [of_label[number] for number in range(folds)]
            assert max(counts) - min(counts) <= 1


def test_a_rare_label_is_spread_as_far_as_it_goes() -> None:
    labels = ["common"] * 20 + ["rare"] * 3
    fold = stratified_folds(labels, 5, 0)
    assert len({fold[row] for row in (20, 21, 22)}) == 3
    assert rare_labels(labels, 5) == {"rare": 3}
    assert rare_labels(labels, 3) == {}


@pytest.mark.parametrize("seed", range(30))
def test_a_draw_takes_its_share_of_every_label_and_never_all(seed: int) -> None:
    labels = made(seed)
    rows = stratified_sample(labels, 0.25, seed)
    assert rows == sorted(set(rows))
    for label, count in Counter(labels).items():
        taken = sum(labels[row] == label for row in rows)
        assert taken < count
        assert abs(taken - 0.25 * count) <= 1
    if min(Counter(labels).values()) > 3:
        assert len(rows) == round(0.25 * len(labels))


def test_the_seed_decides_and_nothing_else() -> None:
    labels = made(0)
    for draw in (lambda seed: stratified_folds(labels, 3, seed), lambda seed: stratified_sample(labels, 0.3, seed)):
        random.seed(1)
        first = draw(0)
        random.seed(2)
        assert draw(0) == first
        assert draw(1) != first


@pytest.mark.parametrize("seed", range(5))
def test_rows_that_say_the_same_are_never_on_both_sides(seed: int) -> None:
    labels = made(seed)
    contents = [row // 2 for row in range(len(labels))]
    drawn = stratified_sample(labels, 0.25, seed)
    held_out = set(held_out_rows(labels, contents, 0.25, seed))
    assert any(row ^ 1 not in drawn for row in drawn), "the plain draw separates some"
    assert not any((row in held_out) != (row ^ 1 in held_out) for row in range(len(labels) // 2 * 2))
    assert held_out_rows(labels, range(len(labels)), 0.25, seed) == drawn


@pytest.mark.parametrize("seed", range(30))
def test_without_repeated_rows_groups_are_drawn_as_rows_are(seed: int) -> None:
    labels = made(seed)
    for share in (0.1, 0.25, 0.5):
        rows = held_out_rows(labels, range(len(labels)), share, seed)
        assert held_out_groups(labels, range(len(labels)), share, seed) == rows


@pytest.mark.parametrize("copies", [2, 3, 4])
@pytest.mark.parametrize("seed", range(6))
def test_of_repeated_rows_the_share_is_held_out(copies: int, seed: int) -> None:
    different = 48 // copies
    labels = [row % 2 for row in range(different)] * copies
    contents = list(range(different)) * copies
    rows = held_out_groups(labels, contents, 0.25, seed)
    assert abs(len(rows) - 12) < copies
    assert {contents.count(contents[row]) for row in rows} == {copies}
    assert not {contents[row] for row in rows} & {contents[row] for row in range(48) if row not in rows}
    of_label = Counter(labels[row] for row in rows)
    assert abs(of_label[0] - of_label[1]) <= copies


@pytest.mark.parametrize("seed", range(30))
def test_groups_of_any_size_and_label(seed: int) -> None:
    labels = made(seed)
    draw = random.Random(seed)
    contents = [draw.randint(0, len(labels) // 2) for _ in labels]  # some rows of a group have other labels
    rows = set(held_out_groups(labels, contents, 0.25, seed))
    assert not {contents[row] for row in rows} & {contents[row] for row in range(len(labels)) if row not in rows}
    assert {labels[row] for row in range(len(labels)) if row not in rows} == set(labels)
    assert len(rows) < 0.25 * len(labels) + max(Counter(contents).values()) / 2 + 0.5


def several_labels(rows: int = 60, seed: int = 0) -> list[tuple[str, ...]]:
    draw = random.Random(seed)
    chances = {"a": 0.4, "b": 0.25, "c": 0.15, "d": 0.1}
    return [tuple(name for name, chance in chances.items() if draw.random() < chance) for _ in range(rows)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shares", [[0.2] * 5, [0.75, 0.25]])
def test_parts_have_their_share_of_every_label(shares: list[float], seed: int) -> None:
    sets = several_labels(seed=seed)
    parts = stratified_parts(sets, shares, seed)
    assert parts == stratified_parts(sets, shares, seed)
    for label in (*"abcd", None):
        rows = [row for row, names in enumerate(sets) if label in (names or (None,))]
        for part, share in enumerate(shares):
            assert abs(sum(parts[row] == part for row in rows) - share * len(rows)) <= 2.5, (label, part)
    for part, share in enumerate(shares):
        assert abs(parts.count(part) - share * len(sets)) <= 5


def test_parts_of_few_rows() -> None:
    assert stratified_parts([("x",), (), ("y",)], [0.75, 0.25], 0).count(1) == 1
    held_out = [stratified_parts([("x", "z"), *[("x",)] * 7, *[()] * 8], [0.75, 0.25], seed)[0] for seed in range(5)]
    assert held_out == [0] * 5, "the only row of a label is trained on"
    groups = [0, 1, 0, 2, 3, 3, 4, 5]
    parts = stratified_parts([("x",), ("y",)] * 4, [0.5, 0.5], 1, groups)
    assert parts[0] == parts[2]
    assert parts[4] == parts[5]
    assert sorted(set(stratified_parts([("x",)] * 5, [0.2] * 5, 0))) == [0, 1, 2, 3, 4]
