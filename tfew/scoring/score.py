"""The only place where answer choices are scored.

Training losses, rank classification and everything later are based on `token_logprob_BCT`: the log-probability of
each token of each answer choice, given the input. Float32, 0 where there is no token.

Two engines give the same numbers. "plain" is the official recipe and the reference: the encoder runs once per example,
its output is repeated for each choice, and everything is padded. "fast" (`tfew.engine`) computes shared parts once and
nothing for padding; it falls back to "plain" for models or methods that it does not support.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tfew.errors import UserError
from tfew.schema import Batch
from tfew.scoring import fast_decoder_only, fast_encoder_decoder, fast_t5
from tfew.scoring.chunks import in_chunks
from tfew.scoring.context import Context, KeptInputs
from tfew.scoring.memory_budget import halves, joined, scoring_bytes, too_little
from tfew.scoring.plain import plain_token_logprob as plain_token_logprob  # the reference, re-exported
from tfew.scoring.self_test import rope_limit_exceeded

log = logging.getLogger(__name__)
ENGINES = ("fast", "plain")
PLAIN, PACKED, SEQ2SEQ, DECODER_ONLY = "plain", "packed", "seq2seq", "decoder_only"
ENCODE_FIRST = {PACKED: fast_t5.token_logprob, SEQ2SEQ: fast_encoder_decoder.token_logprob}


def token_logprob(
    model: nn.Module, batch: Batch, engine: str = ENGINES[0], parts: int = 1, context: Context | None = None,
    kept: KeptInputs | None = None,
) -> Tensor:  # fmt: skip
    """`token_logprob_BCT`; only choices that are present are computed, and `eos`, if present, is an ordinary token.

    With `parts` > 1, choices are computed in that many parts, in training once more for the backward pass: less memory
    for more time. `context` (without gradients) caches the common prefix of a decoder-only model's inputs, which is
    then computed once for all batches that are scored with the same `context`. `kept` caches computations for the
    inputs, for several calls that each score some of the choices.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is neither 'fast' nor 'plain'")
    way = way_of_scoring(model, batch, engine)
    if way in ENCODE_FIRST:
        return ENCODE_FIRST[way](model, batch, parts, kept)
    score: Callable[[nn.Module, Batch], Tensor] = plain_token_logprob
    if way == DECODER_ONLY:
        score = fast_decoder_only.token_logprob
        # `context` is computed once for all batches, so it takes precedence over `kept`, computed once for this batch
        if kept is not None and (context is None or not context.length_for(batch)):
            score = partial(fast_decoder_only.token_logprob_with_inputs, kept=kept)
        elif context is not None:
            score = partial(fast_decoder_only.token_logprob_with_context, context=context)
    if parts == 1:
        return score(model, batch)
    return in_chunks(lambda part: score(model, part), batch, parts)


def way_of_scoring(model: Any, batch: Batch, engine: str) -> str:
    """ "plain", or the fast engine for such a model and texts as long as the batch's; a fallback is logged once."""
    if engine != ENGINES[0] or rope_limit_exceeded(model, batch):
        return PLAIN
    if not model.config.is_encoder_decoder:
        return DECODER_ONLY if fast_decoder_only.supports(model, plain_token_logprob, batch) else PLAIN
    if fast_t5.is_of_this_kind(model):
        return PACKED if fast_t5.supports(model) else PLAIN
    return SEQ2SEQ if fast_encoder_decoder.supports(model, plain_token_logprob, batch) else PLAIN


class BoundedScorer:
    """`token_logprob` without gradients, halving what does not fit into memory; raises UserError if nothing fits.

    The number of prompts that did not fit is remembered, and logged once.
    """

    def __init__(self, model: nn.Module, engine: str, limit_bytes: float | None) -> None:
        self.model, self.engine, self.limit_bytes = model, engine, limit_bytes
        self.too_many: int | None = None
        self.context = Context()

    def __call__(self, batch: Batch, kept: KeptInputs | None = None) -> Tensor:
        if not batch.choice_mask.any():  # of half a batch, in a later round of two-stage ranking
            return torch.zeros(batch.choice_mask.shape, device=batch.choice_mask.device)
        if self._should_fit(batch):
            try:
                return token_logprob(self.model, batch, self.engine, context=self.context, kept=kept)
            except torch.OutOfMemoryError:  # its memory is freed only when this block is left
                log.info(f"Note: the device has too little memory for {len(batch)} prompts at once; halves are scored.")
            if kept is not None:
                kept.release()
            torch.cuda.empty_cache()
            self.too_many = len(batch) if len(batch) > 1 else self.too_many
        parts = halves(batch)
        if parts is None:
            raise too_little(self.limit_bytes, "one choice of one prompt")
        return joined((self(parts[0]), self(parts[1])), batch)

    def _should_fit(self, batch: Batch) -> bool:
        if self.too_many is not None and len(batch) >= self.too_many:
            return False
        if self.limit_bytes is None:
            return True
        way = way_of_scoring(self.model, batch, self.engine)
        return scoring_bytes(self.model, batch, way) <= self.limit_bytes


def score_whole(model: nn.Module, engine: str, batch: Batch) -> Tensor:
    """`token_logprob` without gradients in one pass, for processes that must run the same number of passes."""
    try:
        return token_logprob(model, batch, engine)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The device has too little memory for {len(batch)} prompts at once: set a smaller eval_batch_size=."
        ) from error


def rank_scores(token_logprob_BCT: Tensor, mask_BCT: Tensor, norm: str) -> Tensor:
    """`scores_BC`, higher is better: the sum over a choice's tokens, or their mean (`norm` "sum", "token").

    The mean is T-Few's length normalisation: the divisor is the number of tokens, including eos if a choice has it.
    An absent choice scores -inf.
    """
    if norm not in ("token", "sum"):
        raise ValueError(f"norm {norm!r} is neither 'token' nor 'sum'")
    total_BC = token_logprob_BCT.sum(-1)
    length_BC = mask_BCT.sum(-1)
    scores_BC = total_BC / length_BC.clamp(min=1) if norm == "token" else total_BC
    return scores_BC.masked_fill(length_BC == 0, float("-inf"))


@contextmanager
def scoring_mode(model: nn.Module) -> Iterator[None]:
    """A context without dropout and gradients; restores the model's mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
