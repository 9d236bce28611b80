"""The tables that ship: that they are what tfew/examples/README.md says they are."""

import csv
import itertools
import re
from collections import Counter

import pytest

from tfew import examples
from tfew.errors import UserError
from tfew.tables.table_reader import read_table

LABELLED = {
    "support": ("message", "topic", 4),
    "reviews": ("review", "sentiment", 2),
    "intents": ("request", "intent", 12),
}
OPTIONS = ["A", "B", "C", "D"]
FEWEST = {"train": 60, "test": 100}


def rows(name: str) -> list[dict[str, str]]:
    with examples.path(name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def text(row: dict[str, str]) -> str:
    """What a reader sees of a row, its label aside: a text, or a question and its options."""
    return plain(" ".join(list(row.values())[:-1]))


def overlap(one: set[str], other: set[str]) -> float:
    """Jaccard's index."""
    return len(one & other) / len(one | other)


def alike(texts: list[str], most: float) -> list[tuple[str, str]]:
    words = {text: set(text.split()) for text in texts}
    return [(a, b) for a, b in itertools.combinations(texts, 2) if a == b or overlap(words[a], words[b]) > most]


def test_the_names() -> None:
    pairs = [f"{name}_{part}" for name in [*LABELLED, "quiz"] for part in FEWEST]
    assert examples.names() == sorted([*pairs, "hotels_train"])


def test_several_labels_a_row() -> None:
    found = rows("hotels_train")
    assert [list(row) for row in found] == [["review", "aspects"]] * 60
    count = Counter(label for row in found for label in row["aspects"].split(";") if label)
    assert len(count) == 8
    assert min(count.values()) >= 8
    assert sum(not row["aspects"] for row in found) == 3
    assert all(row["review"] == " ".join(row["review"].split()) for row in found)


@pytest.mark.parametrize("name", [*LABELLED, "quiz"])
def test_sizes_and_columns(name: str) -> None:
    columns = list(LABELLED[name][:2]) if name in LABELLED else ["question", *OPTIONS, "answer"]
    assert len(rows(f"{name}_train")) == FEWEST["train"]
    assert len(rows(f"{name}_test")) >= FEWEST["test"]
    for row in rows(f"{name}_train") + rows(f"{name}_test"):
        assert list(row) == columns
        assert all(cell and cell == " ".join(cell.split()) for cell in row.values()), row


@pytest.mark.parametrize("name", LABELLED)
def test_labels(name: str) -> None:
    label, number = LABELLED[name][1:]
    counts = {part: Counter(row[label] for row in rows(f"{name}_{part}")) for part in FEWEST}
    assert counts["train"].keys() == counts["test"].keys()
    assert len(counts["train"]) == number
    assert min(counts["train"].values()) >= 4
    for count in counts.values():
        assert max(count.values()) <= 1.5 * min(count.values())


def test_no_two_rows_are_alike() -> None:
    texts = [text(row) for name in examples.names() for row in rows(name)]
    assert alike(texts, most=0.8) == []


def test_what_counts_as_alike() -> None:
    assert alike([plain("Where is it?"), plain("where, is it")], most=0.8) == [("where is it", "where is it")]
    assert len(alike(["a b c d e f", "a b c d e", "a b c d x"], most=0.8)) == 1


@pytest.mark.parametrize("part", FEWEST)
def test_the_options_of_a_question(part: str) -> None:
    for row in rows(f"quiz_{part}"):
        assert row["answer"] in OPTIONS
        assert len({plain(row[option]) for option in OPTIONS}) == 4, row
    places = Counter(row["answer"] for row in rows(f"quiz_{part}"))
    assert max(places.values()) - min(places[option] for option in OPTIONS) <= 2


def test_length_does_not_give_the_right_option_away() -> None:
    every = rows("quiz_train") + rows("quiz_test")
    longest = [all(len(row[row["answer"]]) > len(row[o]) for o in OPTIONS if o != row["answer"]) for row in every]
    assert sum(longest) < len(every) / 3


@pytest.mark.parametrize("name", examples.names())
def test_the_reader_of_tables_takes_them(name: str) -> None:
    assert [dict(row) for row in read_table(examples.path(name)).rows] == rows(name)


def test_a_name_that_there_is_not() -> None:
    with pytest.raises(UserError, match=r"'suport_train' .*Did you mean 'support_train'\? Known: 'hotels_train'"):
        examples.path("suport_train")
    with pytest.raises(UserError, match=r"Unknown example '../errors'"):
        examples.path("../errors")
