"""The three loss terms of T-Few (paper section 3.2), pure functions of `token_logprob_BCT`.

Each term is a sum over a whole optimiser step divided by a count over that same step, so micro-batches and
devices add numerators and share one denominator (`Counts`); averaging the averages would weigh tokens of short
micro-batches more. Official counterpart: `src/models/EncoderDecoder.py`, which averages micro-batches.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tfew.schema import Batch
from tfew.scoring.score import rank_scores


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms: language modelling, unlikelihood, length-normalised choice loss."""

    lm: float
    ul: float
    ln: float


@dataclass(frozen=True)
class Counts:
    """Denominators of one optimiser step: right-choice tokens, wrong-choice tokens, examples."""

    right_tokens: int
    wrong_tokens: int
    examples: int


def counts(batch: Batch) -> Counts:
    right, wrong = _right_and_wrong(batch.choice_mask, batch.label)
    return Counts(int(right.sum()), int(wrong.sum()), len(batch))


def lm_loss(token_logprob_BCT: Tensor, mask_BCT: Tensor, label_B: Tensor, right_tokens: int) -> Tensor:
    """Cross-entropy of the right choice: one mean over all its tokens (not a mean of means)."""
    right, _ = _right_and_wrong(mask_BCT, label_B)
    return -(token_logprob_BCT * right).sum() / right_tokens


def unlikelihood_loss(
    token_logprob_BCT: Tensor, mask_BCT: Tensor, label_B: Tensor, wrong_tokens: int, epsilon: float
) -> Tensor:
    """Mean of -log(1 - p + epsilon) over the wrong choices' tokens.

    The official code has epsilon = 0.01, which the paper does not mention; without it a token of probability 1
    is an infinite loss. Zero where an example set has no wrong choice at all.
    """
    _, wrong = _right_and_wrong(mask_BCT, label_B)
    # padding is set to probability 0 before the log, so that its gradient is 0 and never NaN
    probability = token_logprob_BCT.masked_fill(~wrong, float("-inf")).exp()
    penalty = -torch.log(1 - probability + epsilon)
    return (penalty * wrong).sum() / max(wrong_tokens, 1)


def length_normalised_loss(token_logprob_BCT: Tensor, mask_BCT: Tensor, label_B: Tensor, examples: int) -> Tensor:
    """Softmax cross-entropy of the right choice over the length-normalised scores of all choices."""
    scores_BC = rank_scores(token_logprob_BCT, mask_BCT, norm="token")
    return torch.nn.functional.cross_entropy(scores_BC, label_B, reduction="sum") / examples


def loss_terms(
    token_logprob_BCT: Tensor, batch: Batch, weights: LossWeights, total: Counts, epsilon: float
) -> dict[str, Tensor]:
    """The terms in force, unweighted, by name, and `loss`, their weighted sum; `total` counts the whole step."""
    mask, label = batch.choice_mask, batch.label
    terms = {}
    if weights.lm:
        terms["lm_loss"] = lm_loss(token_logprob_BCT, mask, label, total.right_tokens)
    if weights.ul:
        terms["ul_loss"] = unlikelihood_loss(token_logprob_BCT, mask, label, total.wrong_tokens, epsilon)
    if weights.ln:
        terms["ln_loss"] = length_normalised_loss(token_logprob_BCT, mask, label, total.examples)
    weight = {"lm_loss": weights.lm, "ul_loss": weights.ul, "ln_loss": weights.ln}
    terms["loss"] = torch.stack([weight[name] * value for name, value in terms.items()]).sum()
    return terms


def _right_and_wrong(mask_BCT: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
    """Token masks `[B, C, T]` of the right choice and of all others."""
    is_label_BC = torch.nn.functional.one_hot(label_B, mask_BCT.shape[1]).bool()
    return mask_BCT & is_label_BC[..., None], mask_BCT & ~is_label_BC[..., None]
