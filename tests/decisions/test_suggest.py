"""Which rows to label next: uncertainty, the bounded store, and the choice of unlike rows against a slow reference."""

import math
import random
from collections import Counter

import pytest

from tfew.decisions.suggest import Candidate, Candidates, kept_for, most_useful, uncertainty
from tfew.errors import UserError


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [([1.0, 0.0], 0.0), ([0.5, 0.5], 1.0), ([0.2, 0.7, 0.1], 0.5), ([1.0], 0.0), ([0.3, 0.3, 0.3, 0.1], 1.0)],
)
def test_uncertainty_is_one_less_the_margin(probabilities: list[float], expected: float) -> None:
    assert uncertainty(iter(probabilities)) == pytest.approx(expected)


def stream(seed: int, rows: int = 300) -> list[Candidate]:
    draw = random.Random(seed)
    words = [f"word{n}" for n in range(40)]
    return [
        Candidate(number, " ".join(draw.choices(words, k=draw.randint(1, 3))), round(draw.random(), 2))
        for number in range(rows)
    ]


def said(text: str) -> str:
    return " ".join(text.lower().split())


@pytest.mark.parametrize("seed", range(5))
def test_the_store_holds_the_most_uncertain_of_all(seed: int) -> None:
    """Against sorting everything; each text counts once, by its first row, since equal rows are equally uncertain."""
    rows = [Candidate(row.number, row.text, len(set(said(row.text))) / 20) for row in stream(seed)]
    labelled = [rows[3].text.upper(), rows[5].text]
    store = Candidates(25, labelled)
    for row in rows:
        store.add(row)
    first = {}
    for row in rows:
        if said(row.text) not in map(said, labelled):
            first.setdefault(said(row.text), row)
    expected = sorted(first.values(), key=lambda row: (-row.uncertainty, row.number))[:25]
    assert store.in_order() == sorted(expected, key=lambda row: row.number)


def test_memory_does_not_grow_with_the_stream() -> None:
    store = Candidates(10)
    for number in range(5000):
        store.add(Candidate(number, f"text {number}", number / 5000))
    assert len(store._heap) == len(store._texts) == 10
    assert [row.number for row in store.in_order()] == list(range(4990, 5000))
    assert kept_for(20) == 1000
    assert kept_for(200) == 4000


def vector(text: str, texts: list[str]) -> dict[str, float]:
    """scikit-learn's TF-IDF with smoothed idf and 1 + log(tf), written out."""
    weights = {}
    for word, count in Counter(text.split()).items():
        holding = sum(word in other.split() for other in texts)
        weights[word] = (1 + math.log(count)) * (1 + math.log((1 + len(texts)) / (1 + holding)))
    length = math.sqrt(sum(weight**2 for weight in weights.values()))
    return {word: weight / length for word, weight in weights.items()}


def greedy(rows: list[Candidate], count: int, labelled: list[str]) -> list[int]:
    texts = [*labelled, *(row.text for row in rows)]
    vectors = [vector(text, texts) for text in texts]
    taken, chosen = list(range(len(labelled))), []
    for _ in range(count):
        best, best_utility = None, 0.0
        for place in range(len(labelled), len(texts)):
            cosines = [sum(vectors[place].get(w, 0) * x for w, x in vectors[other].items()) for other in taken]
            distance = 1 - max(cosines, default=0.0)
            utility = max(rows[place - len(labelled)].uncertainty, 1e-6) * distance
            if distance > 1e-9 and utility > best_utility + 1e-12:
                best, best_utility = place, utility
        if best is None:
            break
        taken.append(best)
        chosen.append(best - len(labelled))
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_taken_as_by_the_slow_reference(seed: int) -> None:
    rows = stream(seed, 40)
    labelled = ["word1 word2", "word3"]
    found = most_useful(rows, 12, labelled)
    assert [rows.index(row) for row in found] == greedy(rows, 12, labelled)


def test_rows_are_unlike_each_other_and_what_is_labelled() -> None:
    rows = [
        Candidate(0, "the parcel is late", 0.9),
        Candidate(1, "The parcel is late!", 0.9),
        Candidate(2, "late is the parcel", 0.9),
        Candidate(3, "my card was stolen", 0.5),
        Candidate(4, "cancel it", 0.99),
    ]
    assert [row.number for row in most_useful(rows, 5, ["Cancel it."])] == [0, 3]


def test_where_the_model_is_sure_of_all_rows_are_still_unlike() -> None:
    rows = [Candidate(n, text, 0.0) for n, text in enumerate(["a b c", "a b c d", "x y z"])]
    assert [row.number for row in most_useful(rows, 2)] == [0, 2]


def test_nothing_to_choose_from() -> None:
    assert most_useful([], 5) == []
    assert most_useful(stream(0, 3), 0) == []
    with pytest.raises(UserError, match="these have none"):
        most_useful([Candidate(0, "?!", 0.5)], 1)


def test_scripts_with_words_of_one_character_have_words() -> None:
    assert len(most_useful([Candidate(0, "卡 丢 了", 0.5), Candidate(1, "包 裹", 0.5)], 2)) == 2
