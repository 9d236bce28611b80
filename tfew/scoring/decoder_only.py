"""Decoder-only models: an input and all its choices in one row, so that the input is computed once.

Behind the input stand the prefixes of its choices, each at the position that it has in its own choice; a mask lets
each see the input and what comes before it in its choice, and nothing else. The row's end is padding.

Not every model lets itself be told positions and masks (ALiBi, windows of attention, recurrent layers), and there are
too many kinds to list. `supports` goes by the configuration where attention is not to all earlier tokens, and else
tries: it scores a few made-up tokens both ways, and a third time with a mask that lets too much be seen. What rounding
does is small beside what a wrong mask does, whatever the model's weights and type.

Without gradients, a beginning that inputs have in common is computed once as well (`tfew.scoring.context`).
"""

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from tfew.schema import Batch
from tfew.scoring.context import Context
from tfew.scoring.prefixes import Prefixes, prefixes
from tfew.scoring.routing import task_routing
from tfew.scoring.vocabulary import token_logprob_of_states

Mask = Callable[[Prefixes, Tensor, Tensor, int], Tensor]

log = logging.getLogger(__name__)
# the largest difference from the plain way, as a share of a wrong mask's, with which this way is used: in float32, and
# in 16 bits
ENGINE_AGREEMENT, ENGINE_AGREEMENT_16_BIT = 1e-3, 0.1
WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")


class Fits(NamedTuple):
    """Whether this way gives the plain way's numbers: with choices behind their input, and behind a kept beginning."""

    rows: bool
    context: bool


_fits: "WeakKeyDictionary[nn.Module, Fits]" = WeakKeyDictionary()


def supports(model: Any, plain: Callable[[Any, Batch], Tensor]) -> bool:
    """Whether this way gives what `plain` gives with the weights of now, tried once a model; says so where not."""
    if model not in _fits:
        fits = _attends_to_all(model.config) and _takes_positions(model) and _agrees(model, plain, token_logprob)
        _fits[model] = Fits(fits, fits and _agrees(model, plain, _behind_a_new_context))
        if not fits:
            log.info(f"Note: {type(model).__name__} cannot score choices behind a shared input; engine=plain is used.")
    return _fits[model].rows


def token_logprob(model: Any, batch: Batch, sees: Mask | None = None) -> Tensor:
    """`tfew.scoring.score.token_logprob` of a model that `supports` accepts; `sees`: another mask."""
    laid = _laid_out(batch, sees or _sees)
    with task_routing(batch.task_id):
        state_BKD = _states(model, laid.ids_BK, laid.position_BK, laid.sees_BKK)
    return _logprob(model, batch, laid.tree, state_BKD[laid.tree.example_M, laid.place_M])


def token_logprob_behind(model: Any, batch: Batch, context: Context) -> Tensor:
    """The same without gradients; what inputs have in common at their beginning is taken from, or left in, `context`.

    So many examples at a time that their own tokens are about as many as the common ones: that bounds what attention
    does in vain between examples, which see nothing of one another.
    """
    shares = _fits[model].context and batch.task_id is None  # each task's vectors make keys and values of their own
    length = context.length_for(batch) if shares else 0
    if length == 0:
        return token_logprob(model, batch)
    own = int(batch.input_mask.sum(-1).max()) - length + int(batch.choice_mask.sum((1, 2)).max())
    parts = batch.split(max(1, length // own))
    return torch.cat([_behind(model, part, context, length) for part in parts])


def _behind(model: Any, batch: Batch, context: Context, length: int, sees: Mask | None = None) -> Tensor:
    own = replace(batch, input_ids=batch.input_ids[:, length:], input_mask=batch.input_mask[:, length:])
    laid = _laid_out(own, sees or _sees)
    example_E, place_E = laid.present_BK.nonzero(as_tuple=True)
    sees_EE = laid.sees_BKK[example_E[:, None], place_E[:, None], place_E] & (example_E[:, None] == example_E)
    sees_EX = torch.cat([sees_EE.new_ones(len(sees_EE), length), sees_EE], dim=1)
    state_1ED = _states(
        model,
        laid.ids_BK[example_E, place_E][None],
        laid.position_BK[example_E, place_E][None] + length,
        sees_EX[None],
        cache=context.cache(model, batch, length),
    )
    line_BK = (laid.present_BK.flatten().cumsum(0) - 1).view_as(laid.present_BK)
    return _logprob(model, batch, laid.tree, state_1ED[0, line_BK[laid.tree.example_M, laid.place_M]])


def _behind_a_new_context(model: Any, batch: Batch, sees: Mask | None = None) -> Tensor:
    context = Context()
    return _behind(model, batch, context, context.length_for(batch), sees)


@dataclass(frozen=True)
class _Laid:
    """Inputs and the prefixes of their choices in rows of K places; `place_M` is where each prefix ends."""

    tree: Prefixes
    place_M: Tensor
    ids_BK: Tensor
    position_BK: Tensor
    present_BK: Tensor
    sees_BKK: Tensor


def _laid_out(batch: Batch, sees: Mask) -> _Laid:
    tree = prefixes(batch)
    length_B = batch.input_mask.sum(-1)
    first_M = torch.searchsorted(tree.example_M, torch.arange(len(batch), device=length_B.device))[tree.example_M]
    # the empty prefix is the input itself, so its state is that of the input's last token
    place_M = length_B[tree.example_M] + torch.arange(len(first_M), device=length_B.device) - first_M - 1
    width = int(place_M.max()) + 1
    ids_BK = _widened(batch.input_ids, width)
    place_K = torch.arange(width, device=ids_BK.device)
    position_BK = place_K.repeat(len(batch), 1)
    position_BK.masked_fill_(position_BK >= length_B[:, None], 0)  # padding may lie beyond the model's last position
    follows = tree.depth_M > 0
    at = (tree.example_M[follows], place_M[follows])
    ids_BK[at] = tree.last_token_M[follows]
    position_BK[at] = (length_B[tree.example_M] + tree.depth_M - 1)[follows]
    present_BK = place_K < (length_B + torch.bincount(tree.example_M, minlength=len(batch)) - 1)[:, None]
    return _Laid(tree, place_M, ids_BK, position_BK, present_BK, sees(tree, length_B, place_M, width))


def _states(model: Any, ids_BK: Tensor, position_BK: Tensor, sees_BKX: Tensor, **behind: Any) -> Tensor:
    dtype = _dtype(model)
    mask_B1KX = torch.zeros(sees_BKX.shape, dtype=dtype, device=ids_BK.device)
    mask_B1KX = mask_B1KX.masked_fill(~sees_BKX, torch.finfo(dtype).min)[:, None]
    inputs = {"input_ids": ids_BK, "attention_mask": mask_B1KX, "position_ids": position_BK}
    state_BKD: Tensor = model.base_model(**inputs, use_cache=bool(behind), **behind)[0]
    return state_BKD


def _logprob(model: Any, batch: Batch, tree: Prefixes, state_MD: Tensor) -> Tensor:
    logprob_P = token_logprob_of_states(state_MD, model.get_output_embeddings(), tree.prefix_P, tree.target_P)
    return logprob_P.new_zeros(batch.choice_mask.shape).masked_scatter(batch.choice_mask, logprob_P)


def _widened(ids_BL: Tensor, width: int) -> Tensor:
    ids_BK = ids_BL.new_zeros(len(ids_BL), width)
    kept = min(width, ids_BL.shape[1])
    ids_BK[:, :kept] = ids_BL[:, :kept]
    return ids_BK


def _sees(tree: Prefixes, length_B: Tensor, place_M: Tensor, width: int) -> Tensor:
    """`[B, K, K]`: which keys (last) a query sees: the input up to itself, and the prefixes of its prefix."""
    place_K = torch.arange(width, device=length_B.device)
    sees_BKK = (place_K <= place_K[:, None]) & (place_K < length_B[:, None, None])
    for t in range(1, tree.prefix_NT.shape[1]):  # what the prefix without its last token sees, and itself
        longer = tree.length_N > t
        before_N, prefix_N = tree.prefix_NT[longer, t - 1], tree.prefix_NT[longer, t]
        example_N, query_N = tree.example_M[prefix_N], place_M[prefix_N]
        sees_BKK[example_N, query_N] = sees_BKK[example_N, place_M[before_N]]
        sees_BKK[example_N, query_N, query_N] = True
    sees_BKK[:, place_K, place_K] = True  # padding must see something
    return sees_BKK


def _sees_all_before(tree: Prefixes, length_B: Tensor, place_M: Tensor, width: int) -> Tensor:
    return torch.ones(len(length_B), width, width, dtype=torch.bool, device=length_B.device).tril()


def _dtype(model: Any) -> torch.dtype:
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    return dtype


def _attends_to_all(config: Any) -> bool:
    if getattr(config, "final_logit_softcapping", None):  # the head is applied here as it is
        return False
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windows = any(getattr(config, name, None) for name in WINDOWS) and getattr(config, "use_sliding_window", True)
    return kinds == {"full_attention"} and not windows


def _takes_positions(model: Any) -> bool:
    return "position_ids" in inspect.signature(model.base_model.forward).parameters


def _agrees(model: Any, plain: Callable[[Any, Batch], Tensor], way: Callable[..., Tensor]) -> bool:
    if isinstance(next(model.parameters()), FakeTensor):
        return True  # a dry run, without numbers that could agree
    batch = _made_up(model.get_input_embeddings().num_embeddings).to(next(model.parameters()).device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            expected = plain(model, batch)
            ours, wrong = (
                (way(model, batch, sees=sees) - expected).abs().max().item() for sees in (_sees, _sees_all_before)
            )
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return False  # it wants another mask or other positions
    finally:
        model.train(was_training)
    exact = _dtype(model) == torch.float32 and not torch.is_autocast_enabled(batch.input_ids.device.type)
    return bool(ours < (ENGINE_AGREEMENT if exact else ENGINE_AGREEMENT_16_BIT) * wrong)


def _made_up(rows: int) -> Batch:
    """Two inputs of unlike length that begin alike; choices that share a token and are unlike long and many."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, rows, (42,), generator=generator)
    ids[9:14] = ids[:5]
    choice_ids = ids[18:42].view(2, 3, 4).clone()
    choice_ids[:, 1, :2] = choice_ids[:, 0, :2]
    length_BC1 = torch.tensor([[[4], [4], [3]], [[3], [4], [0]]])
    return Batch(
        input_ids=ids[:18].view(2, 9),
        input_mask=torch.arange(9) < torch.tensor([[9], [7]]),
        choice_ids=choice_ids,
        choice_mask=torch.arange(4) < length_BC1,
        label=torch.tensor([0, 1]),
        task_id=torch.tensor([0, 0]),  # for a model that holds many tasks' vectors: those that change nothing
    )
