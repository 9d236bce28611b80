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


class Supported(NamedTuple):
    """Whether this way gives the plain way's numbers: with choices behind their input, and behind a kept beginning."""

    rows: bool
    context: bool


_supported: "WeakKeyDictionary[nn.Module, Supported]" = WeakKeyDictionary()


def supports(model: Any, plain: Callable[[Any, Batch], Tensor]) -> bool:
    """Whether this way gives what `plain` gives with the weights of now, tried once a model; says so where not."""
    if model not in _supported:
        fits = (
            _attends_to_all_earlier(model.config)
            and _takes_positions(model)
            and _agrees_with_plain(model, plain, token_logprob)
        )
        _supported[model] = Supported(fits, fits and _agrees_with_plain(model, plain, _with_new_context))
        if not fits:
            log.info(f"Note: {type(model).__name__} cannot score choices behind a shared input; engine=plain is used.")
    return _supported[model].rows


def token_logprob(model: Any, batch: Batch, sees: Mask | None = None) -> Tensor:
    """`tfew.scoring.score.token_logprob` of a model that `supports` accepts; `sees`: another mask."""
    laid = _lay_out(batch, sees or _attention_mask)
    with task_routing(batch.task_id):
        state_BKD = _states(model, laid.ids_BK, laid.position_BK, laid.attention_mask_BKK)
    return _logprob(model, batch, laid.tree, state_BKD[laid.tree.example_M, laid.token_position_M])


def token_logprob_with_context(model: Any, batch: Batch, context: Context) -> Tensor:
    """The same without gradients; what inputs have in common at their beginning is taken from, or left in, `context`.

    So many examples at a time that their own tokens are about as many as the common ones: that bounds what attention
    does in vain between examples, which see nothing of one another.
    """
    shares = (
        _supported[model].context and batch.task_id is None
    )  # each task's vectors make keys and values of their own
    length = context.length_for(batch) if shares else 0
    if length == 0:
        return token_logprob(model, batch)
    own = int(batch.input_mask.sum(-1).max()) - length + int(batch.choice_mask.sum((1, 2)).max())
    parts = batch.split(max(1, length // own))
    return torch.cat([_with_context(model, part, context, length) for part in parts])


def _with_context(model: Any, batch: Batch, context: Context, length: int, sees: Mask | None = None) -> Tensor:
    own = replace(batch, input_ids=batch.input_ids[:, length:], input_mask=batch.input_mask[:, length:])
    laid = _lay_out(own, sees or _attention_mask)
    example_E, row_position_E = laid.mask_BK.nonzero(as_tuple=True)
    attention_mask_EE = laid.attention_mask_BKK[example_E[:, None], row_position_E[:, None], row_position_E] & (
        example_E[:, None] == example_E
    )
    attention_mask_EX = torch.cat(
        [attention_mask_EE.new_ones(len(attention_mask_EE), length), attention_mask_EE], dim=1
    )
    state_1ED = _states(
        model,
        laid.ids_BK[example_E, row_position_E][None],
        laid.position_BK[example_E, row_position_E][None] + length,
        attention_mask_EX[None],
        cache=context.cache(model, batch, length),
    )
    packed_BK = (laid.mask_BK.flatten().cumsum(0) - 1).view_as(laid.mask_BK)
    return _logprob(model, batch, laid.tree, state_1ED[0, packed_BK[laid.tree.example_M, laid.token_position_M]])


def _with_new_context(model: Any, batch: Batch, sees: Mask | None = None) -> Tensor:
    context = Context()
    return _with_context(model, batch, context, context.length_for(batch), sees)


@dataclass(frozen=True)
class _Layout:
    """Inputs and the prefixes of their choices in rows of K places; `token_position_M` is where each prefix ends."""

    tree: Prefixes
    token_position_M: Tensor
    ids_BK: Tensor
    position_BK: Tensor
    mask_BK: Tensor
    attention_mask_BKK: Tensor


def _lay_out(batch: Batch, sees: Mask) -> _Layout:
    tree = prefixes(batch)
    length_B = batch.input_mask.sum(-1)
    first_M = torch.searchsorted(tree.example_M, torch.arange(len(batch), device=length_B.device))[tree.example_M]
    # the empty prefix is the input itself, so its state is that of the input's last token
    token_position_M = length_B[tree.example_M] + torch.arange(len(first_M), device=length_B.device) - first_M - 1
    width = int(token_position_M.max()) + 1
    ids_BK = _widened(batch.input_ids, width)
    token_position_K = torch.arange(width, device=ids_BK.device)
    position_BK = token_position_K.repeat(len(batch), 1)
    position_BK.masked_fill_(position_BK >= length_B[:, None], 0)  # padding may lie beyond the model's last position
    follows = tree.depth_M > 0
    at = (tree.example_M[follows], token_position_M[follows])
    ids_BK[at] = tree.last_token_M[follows]
    position_BK[at] = (length_B[tree.example_M] + tree.depth_M - 1)[follows]
    mask_BK = token_position_K < (length_B + torch.bincount(tree.example_M, minlength=len(batch)) - 1)[:, None]
    return _Layout(tree, token_position_M, ids_BK, position_BK, mask_BK, sees(tree, length_B, token_position_M, width))


def _states(model: Any, ids_BK: Tensor, position_BK: Tensor, attention_mask_BKX: Tensor, **behind: Any) -> Tensor:
    dtype = _dtype(model)
    mask_B1KX = torch.zeros(attention_mask_BKX.shape, dtype=dtype, device=ids_BK.device)
    mask_B1KX = mask_B1KX.masked_fill(~attention_mask_BKX, torch.finfo(dtype).min)[:, None]
    inputs = {"input_ids": ids_BK, "attention_mask": mask_B1KX, "position_ids": position_BK}
    state_BKD: Tensor = model.base_model(**inputs, use_cache=bool(behind), **behind)[0]
    return state_BKD


def _logprob(model: Any, batch: Batch, tree: Prefixes, state_MD: Tensor) -> Tensor:
    logprob_P = token_logprob_of_states(
        state_MD, model.get_output_embeddings(), tree.prefix_P, tree.target_P, by_softmax=True
    )
    return logprob_P.new_zeros(batch.choice_mask.shape).masked_scatter(batch.choice_mask, logprob_P)


def _widened(ids_BL: Tensor, width: int) -> Tensor:
    ids_BK = ids_BL.new_zeros(len(ids_BL), width)
    kept = min(width, ids_BL.shape[1])
    ids_BK[:, :kept] = ids_BL[:, :kept]
    return ids_BK


def _attention_mask(tree: Prefixes, length_B: Tensor, token_position_M: Tensor, width: int) -> Tensor:
    """`[B, K, K]`: which keys (last) a query sees: the input up to itself, and the prefixes of its prefix."""
    token_position_K = torch.arange(width, device=length_B.device)
    attention_mask_BKK = (token_position_K <= token_position_K[:, None]) & (token_position_K < length_B[:, None, None])
    for t in range(1, tree.prefix_NT.shape[1]):  # what the prefix without its last token sees, and itself
        longer = tree.length_N > t
        before_N, prefix_N = tree.prefix_NT[longer, t - 1], tree.prefix_NT[longer, t]
        example_N, query_N = tree.example_M[prefix_N], token_position_M[prefix_N]
        attention_mask_BKK[example_N, query_N] = attention_mask_BKK[example_N, token_position_M[before_N]]
        attention_mask_BKK[example_N, query_N, query_N] = True
    attention_mask_BKK[:, token_position_K, token_position_K] = True  # padding must see something
    return attention_mask_BKK


def _causal_mask(tree: Prefixes, length_B: Tensor, token_position_M: Tensor, width: int) -> Tensor:
    return torch.ones(len(length_B), width, width, dtype=torch.bool, device=length_B.device).tril()


def _dtype(model: Any) -> torch.dtype:
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    return dtype


def _attends_to_all_earlier(config: Any) -> bool:
    if getattr(config, "final_logit_softcapping", None):  # the head is applied here as it is
        return False
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windows = any(getattr(config, name, None) for name in WINDOWS) and getattr(config, "use_sliding_window", True)
    return kinds == {"full_attention"} and not windows


def _takes_positions(model: Any) -> bool:
    return "position_ids" in inspect.signature(model.base_model.forward).parameters


def _agrees_with_plain(model: Any, plain: Callable[[Any, Batch], Tensor], way: Callable[..., Tensor]) -> bool:
    if isinstance(next(model.parameters()), FakeTensor):
        return True  # a dry run, without numbers that could agree
    batch = _random_batch(model.get_input_embeddings().num_embeddings).to(next(model.parameters()).device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            expected = plain(model, batch)
            ours, wrong = (
                (way(model, batch, sees=sees) - expected).abs().max().item() for sees in (_attention_mask, _causal_mask)
            )
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return False  # it wants another mask or other positions
    finally:
        model.train(was_training)
    exact = _dtype(model) == torch.float32 and not torch.is_autocast_enabled(batch.input_ids.device.type)
    return bool(ours < (ENGINE_AGREEMENT if exact else ENGINE_AGREEMENT_16_BIT) * wrong)


def _random_batch(rows: int) -> Batch:
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
