"""The one place where answer choices are scored.

Training losses, rank classification and everything later start from `token_logprob_BCT`: the log-probability of
each token of each answer choice, given the input. Float32, 0 where there is no token.

Two engines give the same numbers. "plain" is the official recipe and the reference: the encoder once an example, its
output repeated for each choice, everything padded. "fast" (`tfew.engine`) computes what choices share once and nothing
for padding; where a model or a method does not fit it, "plain" does the work.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import BaseModelOutput

from tfew.errors import UserError
from tfew.schema import Batch
from tfew.scoring import fast_decoder_only, fast_encoder_decoder
from tfew.scoring.chunks import in_chunks
from tfew.scoring.context import Context
from tfew.scoring.memory_budget import halves, joined, scoring_bytes, too_little
from tfew.scoring.routing import task_routing

log = logging.getLogger(__name__)
ENGINES = ("fast", "plain")


def token_logprob(
    model: nn.Module, batch: Batch, engine: str = ENGINES[0], parts: int = 1, context: Context | None = None
) -> Tensor:
    """`token_logprob_BCT`; only choices that are present are computed, and `eos`, if there, is a token like any other.

    With `parts` above 1 choices are computed in so many parts, and in training each a second time for its backward
    pass: less memory for more time. Into `context`, without gradients, goes what inputs of a decoder-only model begin
    with alike, so that it is computed once for all batches that are scored with the same `context`.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is neither 'fast' nor 'plain'")
    score: Callable[[nn.Module, Batch], Tensor] = plain_token_logprob
    if engine == "fast":
        config: Any = model.config
        if config.is_encoder_decoder and fast_encoder_decoder.supports(model):
            return fast_encoder_decoder.token_logprob(model, batch, parts)
        if not config.is_encoder_decoder and fast_decoder_only.supports(model, plain_token_logprob):
            score = fast_decoder_only.token_logprob
            if context is not None:
                score = partial(fast_decoder_only.token_logprob_with_context, context=context)
    if parts == 1:
        return score(model, batch)
    return in_chunks(lambda part: score(model, part), batch, parts)


class BoundedScorer:
    """`token_logprob` without gradients, in halves where memory does not suffice; raises UserError where none does.

    How many prompts were too many for the device is remembered, and said once.
    """

    def __init__(self, model: nn.Module, engine: str, limit_bytes: float | None) -> None:
        self.model, self.engine, self.limit_bytes = model, engine, limit_bytes
        self.too_many: int | None = None
        self.context = Context()

    def __call__(self, batch: Batch) -> Tensor:
        if self._should_fit(batch):
            try:
                return token_logprob(self.model, batch, self.engine, context=self.context)
            except torch.OutOfMemoryError:  # what it held is free only when this block is left
                log.info(f"Note: the device has too little memory for {len(batch)} prompts at once; halves are scored.")
            torch.cuda.empty_cache()
            self.too_many = len(batch) if len(batch) > 1 else self.too_many
        parts = halves(batch)
        if parts is None:
            raise too_little(self.limit_bytes, "one choice of one prompt")
        return joined((self(parts[0]), self(parts[1])), batch)

    def _should_fit(self, batch: Batch) -> bool:
        if self.too_many is not None and len(batch) >= self.too_many:
            return False
        return self.limit_bytes is None or scoring_bytes(self.model, batch, self.engine) <= self.limit_bytes


def score_whole(model: nn.Module, engine: str, batch: Batch) -> Tensor:
    """`token_logprob` without gradients in one pass, for processes that must go through the model equally often."""
    try:
        return token_logprob(model, batch, engine)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The device has too little memory for {len(batch)} prompts at once: set a smaller eval_batch_size=."
        ) from error


def plain_token_logprob(model: nn.Module, batch: Batch) -> Tensor:
    """`token_logprob` in the obvious way."""
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
    """Encoder once per example, decoder once per choice (official `EncoderDecoder.py`)."""
    with task_routing(batch.task_id):
        encoded_BLD = model.get_encoder()(input_ids=batch.input_ids, attention_mask=batch.input_mask)[0]
    with task_routing(batch.tasks_of(example_N)):
        return model(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded_BLD[example_N]),
            attention_mask=batch.input_mask[example_N],
            decoder_input_ids=_shift_right(target_NT, model.config.decoder_start_token_id),
            use_cache=False,
        ).logits


def _decoder_only_logits(model: Any, batch: Batch, example_N: Tensor, target_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """Each choice as the continuation of its input: inputs padded on the left, so that all choices start together."""
    input_BL, input_mask_BL = _pad_left(batch.input_ids, batch.input_mask)
    mask_NK = torch.cat([input_mask_BL[example_N], mask_NT], dim=1)
    with task_routing(batch.tasks_of(example_N)):
        logits_NTV = model(
            input_ids=torch.cat([input_BL[example_N], target_NT], dim=1),
            attention_mask=mask_NK.long(),
            position_ids=(mask_NK.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=target_NT.shape[1] + 1,
        ).logits
    return logits_NTV[:, :-1]


def _pad_left(ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
    source_BL = torch.arange(ids_BL.shape[1], device=ids_BL.device) - (~mask_BL).sum(-1, keepdim=True)
    return ids_BL.gather(1, source_BL.clamp(min=0)), source_BL >= 0


def rank_scores(token_logprob_BCT: Tensor, mask_BCT: Tensor, norm: str) -> Tensor:
    """`scores_BC`, higher is better: the sum over a choice's tokens, or their mean (`norm` "sum", "token").

    The mean is T-Few's length normalisation: the divisor is the number of tokens, eos included where a choice has
    it. An absent choice scores -inf.
    """
    if norm not in ("token", "sum"):
        raise ValueError(f"norm {norm!r} is neither 'token' nor 'sum'")
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
