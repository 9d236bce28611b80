"""Which unlabelled rows to label next: those that the model is unsure of, unlike each other and the labelled ones.

A row's uncertainty is 1 minus the margin between its two likeliest labels (Scheffer et al. 2001). The most
uncertain rows are chosen one by one: each time the one with the largest product of its uncertainty and its distance to
the nearest row that is labelled or already chosen (farthest first, as the greedy k-centre of Sener and Savarese 2018,
arXiv 1708.00489). The distance is 1 minus the cosine of TF-IDF vectors: cheap, and the same for every model.

Letters: M candidates, N labelled rows, V words. Matrices `_MV`, `_NV` are scipy's sparse ones.
"""

import heapq
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfew.errors import UserError

LEAST_KEPT, KEPT_FOR_EACH = 1000, 20  # candidates: memory and time do not grow with the number of rows
LABELLED_AT_A_TIME = 1000
NEVER_SURE = 1e-6  # floor: if the model is sure of every row, distances decide
SAME_WORDS = 1e-9  # a distance below it


@dataclass(frozen=True)
class Candidate:
    """A row that may be suggested. `number`: its position; `content`: any data of the caller."""

    number: int
    text: str
    uncertainty: float
    content: Any = None


def uncertainty(probabilities: Iterable[float]) -> float:
    """1 minus the margin of the two largest, from 0 (certain) to 1 (tied); 0 for a single choice."""
    first, second = [*heapq.nlargest(2, probabilities), 0.0][:2]
    return min(1.0, max(0.0, 1.0 - (first - second)))


def _said(text: str) -> str:
    """The text without differences in blanks and case."""
    return " ".join(text.split()).casefold()


def kept_for(count: int) -> int:
    """The number of candidates kept for suggesting `count` rows."""
    return max(LEAST_KEPT, KEPT_FOR_EACH * count)


class Candidates:
    """The `most` most uncertain rows of a stream, each text once; ties keep the first. `labelled` texts are left out.

    Memory grows with `most` and with the labelled texts, not with the stream.
    """

    def __init__(self, most: int, labelled: Iterable[str] = ()) -> None:
        self.most = most
        self._labelled = {_said(text) for text in labelled}
        self._heap: list[tuple[float, int, Candidate]] = []  # the least uncertain on top, of ties the last
        self._texts: set[Hashable] = set()

    def add(self, candidate: Candidate) -> None:
        text = _said(candidate.text)
        if not text or text in self._labelled or text in self._texts:
            return
        entry = (candidate.uncertainty, -candidate.number, candidate)
        if len(self._heap) < self.most:
            heapq.heappush(self._heap, entry)
        elif entry[:2] > self._heap[0][:2]:
            self._texts.discard(_said(heapq.heapreplace(self._heap, entry)[2].text))
        else:
            return
        self._texts.add(text)

    def in_order(self) -> list[Candidate]:
        """The candidates by their position in the stream."""
        return sorted((candidate for *_, candidate in self._heap), key=lambda candidate: candidate.number)


def most_useful(candidates: Sequence[Candidate], count: int, labelled: Sequence[str] = ()) -> list[Candidate]:
    """At most `count` of them, the most useful first; none repeats another or a `labelled` text."""
    if not candidates or count < 1:
        return []
    vectors = _tf_idf([*labelled, *(candidate.text for candidate in candidates)])
    vector_MV, labelled_NV = vectors[len(labelled) :], vectors[: len(labelled)]
    distance_M = _distance_to_nearest(vector_MV, labelled_NV)
    uncertainty_M = np.array([max(candidate.uncertainty, NEVER_SURE) for candidate in candidates])
    chosen: list[Candidate] = []
    while len(chosen) < count:
        utility_M = uncertainty_M * np.where(distance_M > SAME_WORDS, distance_M, 0.0)
        place = int(utility_M.argmax())  # of ties the first
        if utility_M[place] == 0.0:
            break
        chosen.append(candidates[place])
        distance_M = np.minimum(distance_M, _distance_to_nearest(vector_MV, vector_MV[place]))
        distance_M[place] = 0.0
    return chosen


def _tf_idf(texts: Sequence[str]) -> Any:
    """Rows of length 1; all zero if a text has no words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        # words of one character, too: some scripts have many
        return TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b").fit_transform(texts)
    except ValueError as error:  # no text has a word
        raise UserError("suggest= compares the words of rows, but these have none.") from error


def _distance_to_nearest(vector_MV: Any, other_NV: Any) -> np.ndarray:
    """`[M]`: 0 for the same words, 1 for none in common, or if there are no others."""
    distance_M = np.ones(vector_MV.shape[0])
    for start in range(0, other_NV.shape[0], LABELLED_AT_A_TIME):
        cosine_MN = vector_MV @ other_NV[start : start + LABELLED_AT_A_TIME].T
        distance_M = np.minimum(distance_M, 1.0 - cosine_MN.max(axis=1).toarray().ravel())
    return np.maximum(distance_M, 0.0)
