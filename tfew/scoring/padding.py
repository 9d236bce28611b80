"""Whether a model can be scored in padded rows: tried on a few made-up tokens, once a model.

What is taken for granted of a model, and does not hold for all of them:

* no token sees those after it: not so for a model that was trained to fill in words, which is refused
* padding before a text, which is masked, leaves its scores alone: not so where states run through padding (RWKV,
  RecurrentGemma) or positions are counted from the row's start (Bart's decoder)
* nor does padding after an answer: not so where scores depend on the length of a row (ProphetNet)
* a decoder that is given the encoder's states does what it does with the input: not so for FSMT, which sees later
  tokens then
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tfew.errors import UserError
from tfew.schema import Batch
from tfew.scoring.routing import task_routing
from tfew.scoring.self_test import agreement, is_fake, made_up_batch, window_exceeded

log = logging.getLogger(__name__)
SHORTER, FLOOR = 4, 1e-5  # tokens that one made-up text is shorter than the other; logits that differ less are the same
Logits = Callable[[Any, Tensor, Tensor], Tensor]  # of a model, ids and mask `[R, K]`: `[R, K, V]`
AnswerLogits = Callable[[Any, Batch, Tensor, Tensor, bool], Tensor]


class Decoding(NamedTuple):
    """Whether an encoder-decoder may be given the encoder's states, and answers of unlike length in padded rows."""

    states: bool
    padding: bool


_decoding: "WeakKeyDictionary[nn.Module, Decoding]" = WeakKeyDictionary()
_padded_left: "WeakKeyDictionary[nn.Module, dict[int, bool]]" = WeakKeyDictionary()


def pads_left(model: Any, batch: Batch, logits: Logits) -> bool:
    """Whether padding before texts as long as these leaves them alone; says so once where not.

    Raises UserError for a model that sees later tokens.
    """
    if is_fake(model):
        return True
    window = window_exceeded(model, batch)
    known = _padded_left.setdefault(model, {})
    if window not in known:
        known[window] = _try(model, window, logits)
        if not known[window] and all(known[other] for other in known if other != window):
            log.info(
                f"Note: {type(model).__name__} cannot be given texts that are padded on the left; engine=plain scores"
                " those of equal length together."
            )
    return known[window]


def _try(model: Any, window: int, logits: Logits) -> bool:
    ids_2L = made_up_batch(model, window and window + SHORTER).input_ids
    padding = torch.arange(ids_2L.shape[1], device=ids_2L.device) < SHORTER
    mask_2L = torch.stack([torch.ones_like(padding), ~padding])
    own_1L = ids_2L[1:, SHORTER:]
    with _trying(model), task_routing(torch.zeros(2, dtype=torch.long, device=ids_2L.device)):
        padded, seen = (logits(model, ids_2L, mask)[1, SHORTER:] for mask in (mask_2L, torch.ones_like(mask_2L)))
    with _trying(model), task_routing(torch.zeros(1, dtype=torch.long, device=ids_2L.device)):
        alone = logits(model, own_1L, torch.ones_like(own_1L))[0]
        shorter = logits(model, own_1L[:, :-1], torch.ones_like(own_1L[:, :-1]))[0]
    if not _same(alone[:-1], shorter, agreement(model)):
        raise _sees_later(model)
    return bool(_largest(padded - alone) <= agreement(model) * _largest(seen - alone) + FLOOR)


def decoding_of(model: Any, logits: AnswerLogits) -> Decoding:
    """What an encoder-decoder bears; says so once where that is not all. Raises UserError if it sees later tokens."""
    if is_fake(model):
        return Decoding(True, True)
    if model not in _decoding:
        _decoding[model] = bears = _try_decoding(model, logits)
        if not all(bears):
            what = "an encoded input" if bears.padding else "answers of unlike length at once"
            log.info(f"Note: {type(model).__name__} cannot be given {what}; engine=plain does more for it.")
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
