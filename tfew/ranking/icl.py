"""In-context learning: solved examples precede the query, and nothing is trained.

    concat     all of them in one context (Brown et al. 2020)
    ensemble   each in a context of its own, and the contexts' predictions are combined: the paper's T5+LM baseline
               (appendix D), after Min et al. 2022, arXiv 2108.04106

Without in-context learning a prompt has one context, the empty one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import exp, log

from tfew.ranking.norms import available, rescored
from tfew.ranking.ties import best_of
from tfew.schema import Prediction, Prompt

MODES = ("none", "concat", "ensemble")
COMBINATIONS = ("probability", "vote")

Shots = tuple[tuple[str, str], ...]


def in_contexts(prompt: Prompt, shots: Shots, mode: str) -> list[Prompt]:
    """The prompt once for each of its contexts."""
    if mode == "none":
        return [prompt]
    contexts = [shots] if mode == "concat" else [(shot,) for shot in shots]
    return [replace(prompt, shots=context) for context in contexts]


def fitting_shots(lengths: Sequence[int], free_tokens: int, mode: str) -> list[int]:
    """Indices of the shots, of these lengths, that fit with the longest query; `concat` keeps those nearest to it."""
    if mode == "ensemble":
        return [index for index, length in enumerate(lengths) if length <= free_tokens]
    first = len(lengths)
    while first > 0 and sum(lengths[first - 1 :]) <= free_tokens:
        first -= 1
    return list(range(first, len(lengths)))


@dataclass(frozen=True)
class Answer:
    """A model's answers to a prompt in each of its contexts, scored by sums; `under` applies a norm."""

    members: tuple[Prediction, ...]
    combine: str = COMBINATIONS[0]

    @property
    def dataset(self) -> str:
        return self.members[0].dataset

    @property
    def idx(self) -> int:
        return self.members[0].idx

    @property
    def label(self) -> int | None:
        return self.members[0].label

    @property
    def template(self) -> str:
        return self.members[0].template

    def with_template(self, template: str) -> "Answer":
        return replace(self, members=tuple(replace(member, template=template) for member in self.members))

    @property
    def choices(self) -> int:
        return len(self.members[0].scores)

    @property
    def norms(self) -> tuple[str, ...]:
        return available(self.members[0])

    @classmethod
    def of(cls, prediction: Prediction, norm: str) -> "Answer":
        """An answer in one context, from its prediction under a norm."""
        return cls((rescored(prediction, norm, "sum"),))

    def under(self, norm: str) -> Prediction:
        return combined([rescored(member, "sum", norm) for member in self.members], self.combine)


def combined(members: Sequence[Prediction], combine: str) -> Prediction:
    """Combines the predictions of several contexts: the log of each choice's mean probability, or its share of votes.

    A context's probabilities are the softmax of its scores over the choices. A single prediction is returned as it is.
    """
    if len(members) == 1:
        return members[0]
    if combine == "vote":
        scores = [
            sum(member.predicted == c for member in members) / len(members) for c in range(len(members[0].scores))
        ]
    else:
        columns = zip(*map(_probabilities, members), strict=True)
        scores = [_log(sum(probabilities) / len(members)) for probabilities in columns]
    return replace(
        members[0], scores=tuple(scores), predicted=best_of(scores, members[0].label, members[0].same),
        contexts=len(members), characters=None, bytes=None, unconditional=None,
    )  # fmt: skip


def _probabilities(prediction: Prediction) -> Iterator[float]:
    highest = max(prediction.scores)
    weights = [exp(score - highest) for score in prediction.scores]
    return (weight / sum(weights) for weight in weights)


def _log(probability: float) -> float:
    """A probability that underflowed to 0 still has a finite score: records are JSON, which has no infinity."""
    return log(max(probability, 1e-300))
