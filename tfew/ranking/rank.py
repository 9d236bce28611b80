"""Rank classification (paper section 3.1): the predicted choice is the one with the best score."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from tfew.ranking.metrics import best
from tfew.schema import Batch, Prediction, Prompt
from tfew.scoring import rank_scores


def rank_classify(
    token_logprob: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    prompts: Sequence[Prompt],
    norm: str,
    device: torch.device,
) -> Iterator[Prediction]:
    """One prediction per prompt, in order; `batches` hold the prompts in the same order. Ties go to the first."""
    remaining = iter(prompts)
    for batch in batches:
        batch = batch.to(device)
        scores_BC = rank_scores(token_logprob(batch), batch.choice_mask, norm).tolist()
        tokens_BC = batch.choice_mask.sum(-1).tolist()
        for scores_C, tokens_C, prompt in zip(scores_BC, tokens_BC, remaining, strict=False):
            choices = len(prompt.choices)
            scores, tokens = tuple(scores_C[:choices]), tuple(tokens_C[:choices])
            yield Prediction(prompt.dataset, prompt.template, prompt.idx, prompt.label, best(scores), scores, tokens)
