"""The plain engine: the official recipe and the reference. Everything is padded, and shared parts are repeated.

The encoder of an encoder-decoder runs once per example; a decoder-only model gets each choice as the continuation of
its input.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from tfew.schema import Batch
from tfew.scoring.padding import BOTH, NOWHERE, decoding_of, padding_of, resetting_rotary_positions
from tfew.scoring.routing import task_routing
from tfew.scoring.text_config import decoder_start_id


def plain_token_logprob(model: nn.Module, batch: Batch) -> Tensor:
    """The straightforward implementation of `tfew.scoring.score.token_logprob`."""
    config: Any = model.config
    example_N, choice_N = batch.choice_mask.any(-1).nonzero(as_tuple=True)
    target_NT = batch.choice_ids[example_N, choice_N]
    mask_NT = batch.choice_mask[example_N, choice_N]
    logits = _encoder_decoder_logits if config.is_encoder_decoder else _decoder_only_logits
    logits_NTV = logits(model, batch, example_N, target_NT, mask_NT)
    logprob_NT = -cross_entropy(logits_NTV.flatten(0, 1).float(), target_NT.flatten(), reduction="none")
    token_logprob_BCT = logprob_NT.new_zeros(batch.choice_mask.shape)
    token_logprob_BCT[example_N, choice_N] = logprob_NT.view_as(mask_NT) * mask_NT
    return token_logprob_BCT


def _encoder_decoder_logits(model: Any, batch: Batch, example_N: Tensor, target_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """Encoder once per example, decoder once per choice (official `EncoderDecoder.py`), if the model supports it."""
    bears = decoding_of(model, answer_logits)
    ids_NT = torch.cat([torch.full_like(target_NT[:, :1], decoder_start_id(model)), target_NT[:, :-1]], dim=1)
    if bears.padding:
        return answer_logits(model, batch, example_N, ids_NT, bears.states)
    length_N = mask_NT.sum(-1)

    def padded(row_R: Tensor, length: int) -> Tensor:
        logits = answer_logits(model, batch, example_N[row_R], ids_NT[row_R, :length], bears.states)
        return pad(logits, (0, 0, 0, ids_NT.shape[1] - length))

    return _by_length(length_N, padded)


def answer_logits(model: Any, batch: Batch, example_N: Tensor, ids_NT: Tensor, states: bool) -> Tensor:
    """Logits `[N, T, V]` for the decoder's `ids_NT`; with `states` the encoder runs once per example, else per row."""
    source: dict[str, Any] = {"input_ids": batch.input_ids[example_N]}
    if states:
        with task_routing(batch.task_id):
            encoded = model.get_encoder()(input_ids=batch.input_ids, attention_mask=batch.input_mask.long())
        encoded["last_hidden_state"] = encoded[0][example_N]
        source = {"encoder_outputs": encoded}
    mask_NL = batch.input_mask[example_N].long()
    with task_routing(batch.tasks_of(example_N)):
        logits_NTV: Tensor = model(**source, attention_mask=mask_NL, decoder_input_ids=ids_NT, use_cache=False).logits
    return logits_NTV


def _decoder_only_logits(model: Any, batch: Batch, example_N: Tensor, target_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """Each choice as the continuation of its input, with all choices of a call starting at the same place.

    So inputs are padded on the left; if a model does not support it, inputs of equal length are scored together.
    """
    padding = padding_of(model, batch, row_logits)
    if padding == BOTH:
        return _continued(model, batch, example_N, target_NT, mask_NT, counted=True)
    base = target_NT.shape[1] + 1

    def of_equal_length(row_R: Tensor, lengths: int) -> Tensor:
        length, tokens = divmod(lengths, base)
        part = replace(batch, input_ids=batch.input_ids[:, :length], input_mask=batch.input_mask[:, :length])
        target_RT, mask_RT = target_NT[row_R, :tokens], mask_NT[row_R, :tokens]
        with resetting_rotary_positions(model):
            logits = _continued(model, part, example_N[row_R], target_RT, mask_RT, counted=False)
        return pad(logits, (0, 0, 0, base - 1 - tokens))

    tokens_N = mask_NT.sum(-1) if padding == NOWHERE else torch.full_like(example_N, base - 1)
    return _by_length(batch.input_mask.sum(-1)[example_N] * base + tokens_N, of_equal_length)


def _by_length(length_N: Tensor, logits: Callable[[Tensor, int], Tensor]) -> Tensor:
    """`logits` of the rows of each length, in the order of all rows."""
    rows = [(length_N == length).nonzero(as_tuple=True)[0] for length in length_N.unique()]
    parts = [logits(row_R, int(length_N[row_R[0]])) for row_R in rows]
    return torch.cat(parts)[torch.cat(rows).argsort()]


def _continued(
    model: Any, batch: Batch, example_N: Tensor, target_NT: Tensor, mask_NT: Tensor, counted: bool
) -> Tensor:
    input_BL, input_mask_BL = _pad_left(batch.input_ids, batch.input_mask)
    ids_NK = torch.cat([input_BL[example_N], target_NT], dim=1)
    mask_NK = torch.cat([input_mask_BL[example_N], mask_NT], dim=1)
    with task_routing(batch.tasks_of(example_N)):
        return row_logits(model, ids_NK, mask_NK, counted, target_NT.shape[1] + 1)[:, :-1]


def row_logits(model: Any, ids_RK: Tensor, mask_RK: Tensor, counted: bool, keep: int = 0) -> Tensor:
    """Logits `[R, K, V]`; with `keep`, of the last `keep` places. `counted`: positions do not count padding."""
    taken = inspect.signature(model.forward).parameters
    inputs: dict[str, Any] = {"input_ids": ids_RK, "attention_mask": mask_RK.long()}
    if counted and ("position_ids" in taken or "kwargs" in taken):
        inputs["position_ids"] = (mask_RK.long().cumsum(-1) - 1).clamp(min=0)
    if "logits_to_keep" in taken:
        inputs["logits_to_keep"] = keep
    logits_RKV: Tensor = model(**inputs, use_cache=False).logits
    return logits_RKV[:, -keep:]


def _pad_left(ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
    source_BL = torch.arange(ids_BL.shape[1], device=ids_BL.device) - (~mask_BL).sum(-1, keepdim=True)
    return ids_BL.gather(1, source_BL.clamp(min=0)), source_BL >= 0
