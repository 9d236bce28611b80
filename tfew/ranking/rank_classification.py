"""Rank classification (paper section 3.1): the predicted choice is the one with the best score."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tfew.errors import UserError
from tfew.label_sets.questions import own_texts
from tfew.ranking.norms import predicted, rescored
from tfew.ranking.shortlist import Shortlist
from tfew.schema import Batch, Prediction, Prompt
from tfew.scoring.score import rank_scores

TENSOR_NORMS = ("token", "sum")
AT_A_TIME = 100  # texts scored as the choices of one empty input


def rank_classify(
    token_logprob: Callable[..., Tensor],
    batches: Iterable[Batch],
    prompts: Sequence[Prompt],
    norm: str,
    device: torch.device,
    unconditional: Mapping[str, Mapping[str, float]],
    shortlist: Shortlist | None = None,
) -> Iterator[Prediction]:
    """One prediction per prompt, in order; `batches` hold the prompts in the same order. Ties go to the first.

    Raises UserError if a score is NaN. `unconditional`: by data set each choice's log-probability after an empty input,
    for the norm "pmi".
    `shortlist`: leaves out choices that cannot be the best.
    """
    remaining = iter(prompts)
    for batch in batches:
        batch = batch.to(device)
        made_with = norm if norm in TENSOR_NORMS else "sum"
        listed = shortlist if shortlist is not None and shortlist.leaves_out(batch) else None
        bounds_B = [0] * len(batch)
        if listed is None:
            logprob_BCT, scored_BCT = batch.scored(token_logprob(batch))
        else:
            logprob_BCT, is_bound_BC = listed(token_logprob, batch)
            scored_BCT, bounds_B = batch.choice_mask, is_bound_BC.sum(-1).tolist()
        scores_BC = rank_scores(logprob_BCT, scored_BCT, made_with).tolist()
        tokens_BC = scored_BCT.sum(-1).tolist()
        for scores_C, tokens_C, bounds, prompt in zip(scores_BC, tokens_BC, bounds_B, remaining, strict=False):
            choices = len(prompt.choices)
            scores = tuple(scores_C[:choices])
            if any(map(math.isnan, scores)):
                raise UserError(
                    f"The model gives NaN as the score of a choice, in a row of {prompt.dataset}: its weights or the"
                    " adapter's are damaged, or their data type is too small for its numbers (try model.dtype=float32)."
                )
            own, alone = own_texts(prompt), unconditional.get(prompt.dataset)
            prediction = predicted(
                prompt,
                scores,
                tokens=tuple(tokens_C[:choices]),
                characters=tuple(map(len, own)),
                bytes=tuple(len(choice.encode()) for choice in own),
                unconditional=None if alone is None else tuple(alone[choice] for choice in prompt.choices),
                bounds=bounds,
                shortlisted=listed.norm if listed is not None and bounds else None,
            )
            yield rescored(prediction, made_with, norm)


def unconditional_sums(
    token_logprob: Callable[[Batch], Tensor],
    encode: Callable[[list[Prompt]], list[Any]],
    collated: Callable[[list[Any]], Batch],
    choices: Sequence[str],
    device: torch.device,
) -> dict[str, float]:
    """The log-probability of each of these texts after an empty input, some at a time."""
    sums: dict[str, float] = {}
    for start in range(0, len(choices), AT_A_TIME):
        some = tuple(choices[start : start + AT_A_TIME])
        batch = collated(encode([Prompt("", "", 0, "", some, None)])).to(device)
        (scores_C,) = rank_scores(token_logprob(batch), batch.choice_mask, "sum").tolist()
        sums.update(zip(some, scores_C, strict=True))
    return sums
