"""The three loss terms of T-Few (paper section 3.2), pure functions of `token_logprob_BCT`.

Each term is a sum over a whole optimiser step divided by a count over the same step, so micro-batches and
devices add numerators and share one denominator (`Counts`); a mean of means would give more weight to tokens of short
micro-batches more. Official counterpart: `src/models/EncoderDecoder.py`, which averages micro-batches.

A new term is a function here, a line in `TERMS`, and its weight in the files of configs/loss.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tfew.errors import unknown_value_error
from tfew.schema import Batch
from tfew.scoring.score import rank_scores

EPSILON = 0.01  # of the official code's unlikelihood term; the paper does not mention it


@dataclass(frozen=True)
class Counts:
    """Denominators of one optimiser step: right-choice tokens, wrong-choice tokens, examples."""

    right_tokens: int
    wrong_tokens: int
    examples: int


def counts(batch: Batch) -> Counts:
    """The counts of a batch; each question of an example with several questions counts as one example."""
    batch = batch.by_question()
    right, wrong = _right_and_wrong(batch.choice_mask, batch.label)
    return Counts(int(right.sum()), int(wrong.sum()), len(batch))


def lm_loss(token_logprob_BCT: Tensor, batch: Batch, total: Counts, epsilon: float = EPSILON) -> Tensor:
    """Cross-entropy of the right choice: one mean over all its tokens (not a mean of means)."""
    right, _ = _right_and_wrong(batch.choice_mask, batch.label)
    return -(token_logprob_BCT * right).sum() / total.right_tokens


def unlikelihood_loss(token_logprob_BCT: Tensor, batch: Batch, total: Counts, epsilon: float = EPSILON) -> Tensor:
    """Mean of -log(1 - p + epsilon) over the wrong choices' tokens.

    Without epsilon a token of probability 1 has infinite loss. Zero if there is no wrong choice at all.
    """
    _, wrong = _right_and_wrong(batch.choice_mask, batch.label)
    # padding is set to probability 0 before the log, so that its gradient is 0 and never NaN
    probability = token_logprob_BCT.masked_fill(~wrong, float("-inf")).exp()
    penalty = -torch.log(1 - probability + epsilon)
    return (penalty * wrong).sum() / max(total.wrong_tokens, 1)


def length_normalised_loss(token_logprob_BCT: Tensor, batch: Batch, total: Counts, epsilon: float = EPSILON) -> Tensor:
    """Softmax cross-entropy of the right choice over the length-normalised scores of all choices."""
    scores_BC = rank_scores(token_logprob_BCT, batch.choice_mask, norm="token")
    return torch.nn.functional.cross_entropy(scores_BC, batch.label, reduction="sum") / total.examples


# key of its weight in configs/loss -> the term; `{key}_loss` is its name in logs
TERMS: dict[str, Callable[..., Tensor]] = {
    "lm": lm_loss,
    "ul": unlikelihood_loss,
    "ln": length_normalised_loss,
}
OF_RIGHT_CHOICE = ("lm",)  # terms that do not depend on the other choices


@dataclass(frozen=True)
class LossConfig:
    """The weight of each term in `TERMS` (0: not computed), and the epsilon of the unlikelihood term."""

    weights: Mapping[str, float]
    epsilon: float = EPSILON

    def __post_init__(self) -> None:
        for name in self.weights.keys() - TERMS.keys():
            raise unknown_value_error("loss term", name, TERMS, f"loss.{name}=")

    @classmethod
    def from_settings(cls, loss: Mapping[str, Any], epsilon: float) -> "LossConfig":
        """From a file of configs/loss, whose values are weights."""
        return cls({key: value for key, value in loss.items() if isinstance(value, int | float)}, epsilon)

    @property
    def compares_choices(self) -> bool:
        """Whether the loss depends on wrong choices."""
        return any(weight for name, weight in self.weights.items() if name not in OF_RIGHT_CHOICE)


T_FEW = LossConfig({"lm": 1, "ul": 1, "ln": 1})


def loss_terms(token_logprob_BCT: Tensor, batch: Batch, loss: LossConfig, total: Counts) -> dict[str, Tensor]:
    """The terms that are in use, unweighted, by name, and `loss`, their weighted sum; `total` counts the whole step.

    If examples have several questions, terms are computed per question, on the tokens where its choices differ.
    """
    if batch.label.dim() == 2:
        scored_BCT, _ = batch.scored(token_logprob_BCT)
        batch = batch.by_question()
        token_logprob_BCT = scored_BCT.reshape(batch.choice_mask.shape)
    weights = {name: weight for name in TERMS if (weight := loss.weights.get(name))}
    terms = {name: TERMS[name](token_logprob_BCT, batch, total, loss.epsilon) for name in weights}
    weighted = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    return {**{f"{name}_loss": term for name, term in terms.items()}, "loss": weighted}


def _right_and_wrong(mask_BCT: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
    """Token masks `[B, C, T]` of the right choice and of all others."""
    is_label_BC = torch.nn.functional.one_hot(label_B, mask_BCT.shape[1]).bool()
    return mask_BCT & is_label_BC[..., None], mask_BCT & ~is_label_BC[..., None]
