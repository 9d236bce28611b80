"""Tests whether a model can be scored in padded rows, on a few made-up tokens, once per model.

Assumptions that do not hold for all models:

* no token sees later tokens: false for models that were trained to fill in words, which are rejected
* masked padding before a text does not change its scores: false if states run through padding (RWKV, RecurrentGemma),
  or positions are counted from the row's start (Bart's decoder) or from 2 (RoBERTa's)
* nor does padding after it: false if scores depend on the length of a row (ProphetNet; rotary angles that depend on
  the longest text, beyond their limit)
* a decoder with the encoder's states as input equals the whole model: false for FSMT, which then sees later tokens
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from tfew.errors import UserError
from tfew.schema import Batch
from tfew.scoring.routing import task_routing
from tfew.scoring.self_test import agreement, is_fake, made_up_batch, rope_limit_exceeded, window_exceeded
from tfew.scoring.text_config import rope_limit

log = logging.getLogger(__name__)
SHORTER, FLOOR = 4, 1e-5  # difference in length of the made-up texts; tolerance of logits
BOTH, RIGHT, NOWHERE = "both", "right", "nowhere"
RowLogits = Callable[[Any, Tensor, Tensor, bool], Tensor]
AnswerLogits = Callable[[Any, Batch, Tensor, Tensor, bool], Tensor]


class Decoding(NamedTuple):
    """Whether an encoder-decoder may be given the encoder's states, and answers of unlike length in padded rows."""

    states: bool
    padding: bool


_decoding: "WeakKeyDictionary[nn.Module, Decoding]" = WeakKeyDictionary()
_beyond_limit: "WeakSet[nn.Module]" = WeakSet()  # those of which it was logged
_padding: "WeakKeyDictionary[nn.Module, dict[int, str]]" = WeakKeyDictionary()


def padding_of(model: Any, batch: Batch, logits: RowLogits) -> str:
    """On which sides texts as long as these can be padded: BOTH, RIGHT or NOWHERE; logged once if not on both.

    Raises UserError for a model that sees later tokens.
    """
    if is_fake(model):
        return BOTH
    window = window_exceeded(model, batch)
    known = _padding.setdefault(model, {})
    if window not in known:
        known[window] = _try(model, window, logits)
        if known[window] != BOTH and all(known[other] == BOTH for other in known if other != window):
            log.info(
                f"Note: {type(model).__name__} cannot be given texts that are padded; texts of equal length are scored"
                " together."
            )
    if rope_limit_exceeded(model, batch):
        if model not in _beyond_limit:
            _beyond_limit.add(model)
            log.info(
                f"Note: {type(model).__name__} has other rotary positions in texts of more than {rope_limit(model)}"
                " tokens; batches with one are scored by engine=plain, texts of equal length together."
            )
        return NOWHERE
    return known[window]


@contextmanager
def resetting_rotary_positions(model: Any) -> Iterator[None]:
    """For a forward pass beyond `rope_limit`: "dynamic" angles would stay those of the longest text so far."""
    try:
        yield
    finally:
        for module in model.modules():
            for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
                setattr(module, name, 0)


def _try(model: Any, window: int, logits: RowLogits) -> str:
    ids_2L = made_up_batch(model, window and window + SHORTER).input_ids
    padding = torch.arange(ids_2L.shape[1], device=ids_2L.device) < SHORTER
    mask_2L = torch.stack([torch.ones_like(padding), ~padding])
    own_1L = ids_2L[1:, SHORTER:]
    with _trying(model), task_routing(torch.zeros(2, dtype=torch.long, device=ids_2L.device)):
        padded, seen = (logits(model, ids_2L, mask, True)[1, SHORTER:] for mask in (mask_2L, torch.ones_like(mask_2L)))
    with _trying(model), task_routing(torch.zeros(1, dtype=torch.long, device=ids_2L.device)):
        alone = logits(model, own_1L, torch.ones_like(own_1L), False)[0]
        changed_1L = torch.cat([own_1L[:, :-1], own_1L[:, :1]], dim=1)
        later, shorter = (logits(model, ids, torch.ones_like(ids), False)[0] for ids in (changed_1L, own_1L[:, :-1]))
    if not _same(alone[:-1], later[:-1], agreement(model)):
        raise _sees_later(model)
    if not _same(alone[:-1], shorter, agreement(model)):
        return NOWHERE
    return BOTH if _largest(padded - alone) <= agreement(model) * _largest(seen - alone) + FLOOR else RIGHT


def decoding_of(model: Any, logits: AnswerLogits) -> Decoding:
    """What an encoder-decoder supports; limitations are logged once. Raises UserError if it sees later tokens."""
    if is_fake(model):
        return Decoding(True, True)
    if model not in _decoding:
        _decoding[model] = bears = _try_decoding(model, logits)
        if not all(bears):
            what = "an encoded input" if bears.padding else "answers of unlike length at once"
            log.info(f"Note: {type(model).__name__} cannot be given {what}; engine=plain needs more passes for it.")
    return _decoding[model]


def _try_decoding(model: Any, logits: AnswerLogits) -> Decoding:
    batch = made_up_batch(model)
    ids_NT, example_N, share = batch.choice_ids[:, 0], torch.arange(2, device=batch.label.device), agreement(model)
    changed_NT = torch.cat([ids_NT[:, :-1], ids_NT[:, :1]], dim=1)
    with _trying(model):
        whole, later = (logits(model, batch, example_N, ids, False) for ids in (ids_NT, changed_NT))
        shorter = logits(model, batch, example_N, ids_NT[:, :-1], False)
        from_states = logits(model, batch, example_N, ids_NT, True)
    if not _same(whole[:, :-1], later[:, :-1], share):
        raise _sees_later(model)
    return Decoding(_same(from_states, whole, share), _same(whole[:, :-1], shorter, share))


@contextmanager
def _trying(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    except (AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise UserError(
            f"{type(model).__name__} cannot be run on text alone, as scoring does: {type(error).__name__}: {error}"
        ) from error
    finally:
        model.train(was_training)


def _sees_later(model: Any) -> UserError:
    return UserError(
        f"{type(model).__name__} lets tokens see those that come after them, so it cannot score an answer token by"
        " token: it needs a causal model (of the BERT kind: one whose config.json says is_decoder: true)."
    )


def _same(ours: Tensor, expected: Tensor, share: float) -> bool:
    return _largest(ours - expected) <= share * expected.float().std().item() + FLOOR


def _largest(difference: Tensor) -> float:
    return difference.float().abs().max().item()
