"""The one place where answer choices are scored.

Training losses, rank classification and everything later start from `token_logprob_BCT`: the log-probability of
each token of each answer choice, given the input. Float32, 0 where there is no token.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import BaseModelOutput

from tfew.schema import Batch

NORMS = ("token", "sum")


def token_logprob(model: nn.Module, batch: Batch) -> Tensor:
    """`token_logprob_BCT` from an encoder-decoder model: encoder once per example, decoder once per choice.

    Only choices that are present are computed; `eos` is a token like any other (official `EncoderDecoder.py`).
    """
    example_N, choice_N = batch.choice_mask.any(-1).nonzero(as_tuple=True)
    target_NT = batch.choice_ids[example_N, choice_N]
    mask_NT = batch.choice_mask[example_N, choice_N]
    encoded_BLD = model.get_encoder()(input_ids=batch.input_ids, attention_mask=batch.input_mask)[0]  # type: ignore[operator]
    logits_NTV = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=encoded_BLD[example_N]),
        attention_mask=batch.input_mask[example_N],
        decoder_input_ids=_shift_right(target_NT, model.config.decoder_start_token_id),  # type: ignore[union-attr, arg-type]
        use_cache=False,
    ).logits
    logprob_NT = -cross_entropy(logits_NTV.flatten(0, 1).float(), target_NT.flatten(), reduction="none")
    token_logprob_BCT = logprob_NT.new_zeros(batch.choice_mask.shape)
    token_logprob_BCT[example_N, choice_N] = logprob_NT.view_as(mask_NT) * mask_NT
    return token_logprob_BCT


def rank_scores(token_logprob_BCT: Tensor, mask_BCT: Tensor, norm: str) -> Tensor:
    """`scores_BC`, higher is better: the sum over a choice's tokens, or their mean (`norm` "sum", "token").

    The mean is T-Few's length normalisation: the divisor is the number of tokens, eos included. An absent choice
    scores -inf.
    """
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r} is not one of {NORMS}")
    total_BC = token_logprob_BCT.sum(-1)
    length_BC = mask_BCT.sum(-1)
    scores_BC = total_BC / length_BC.clamp(min=1) if norm == "token" else total_BC
    return scores_BC.masked_fill(length_BC == 0, float("-inf"))


@contextmanager
def scoring_mode(model: nn.Module) -> Iterator[None]:
    """No dropout, no gradients; the model's own mode comes back afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def _shift_right(target_NT: Tensor, start_id: int) -> Tensor:
    return torch.cat([torch.full_like(target_NT[:, :1], start_id), target_NT[:, :-1]], dim=1)
