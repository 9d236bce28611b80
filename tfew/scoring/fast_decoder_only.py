"""Decoder-only models: an input and all its choices in one row, so that the input is computed once.

After the input come the prefixes of its choices, each at the position that it has in its own choice. A mask lets each
attend to the input and to the earlier tokens of its choice only, within the window of a layer.

Only attention needs such rows: all else is computed on packed tokens, without padding, if the model allows it
(`tfew.scoring.packed_attention`); otherwise on rows that end with padding.

Not every model accepts positions and masks (ALiBi, recurrent layers, windows that go by places in the row), and there
are too many kinds to list. `supports` tests it (`tfew.scoring.self_test`).

Without gradients, a common prefix of the inputs is computed once as well (`tfew.scoring.context`).
"""

import inspect
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tfew.schema import Batch
from tfew.scoring.chunks import in_groups_of_like_length
from tfew.scoring.context import Context, KeptInputs, kept_cache, layers_of, new_cache
from tfew.scoring.output_head import output_head
from tfew.scoring.packed_attention import can_be_packed, pack, packed_attention
from tfew.scoring.plain import plain_token_logprob
from tfew.scoring.prefix_layout import RIGHT, Masks, Sees, known_kinds, lay_out, layer_masks
from tfew.scoring.prefixes import Prefixes
from tfew.scoring.routing import task_routing
from tfew.scoring.self_test import agrees_with_plain, dtype, window_exceeded
from tfew.scoring.vocabulary import token_logprob_of_states

log = logging.getLogger(__name__)


class Supported(NamedTuple):
    """Where this engine agrees with the plain one.

    rows: choices after their input; packed: such rows without padding; context: choices after a cached prefix
    """

    rows: bool
    packed: bool
    context: bool


# by the window that the longest text exceeds, 0 if it exceeds none
_supported: "WeakKeyDictionary[nn.Module, dict[int, Supported]]" = WeakKeyDictionary()
_keeps_inputs: "WeakKeyDictionary[nn.Module, dict[int, bool]]" = WeakKeyDictionary()  # the same; tested on first use


def supports(model: Any, plain: Callable[[Any, Batch], Tensor], batch: Batch | None = None) -> bool:
    """Whether this engine agrees with `plain` with the current weights, for texts as long as the batch's.

    Tested once per model and per window that texts exceed; a disagreement is logged.
    """
    window = window_exceeded(model, batch)
    known = _supported.setdefault(model, {})
    if window not in known:
        known[window] = _try(model, plain, window)
        if not known[window].rows and all(known[other].rows for other in known if other != window):
            where = f" in texts of more than {window} tokens, its window of attention" if window else ""
            log.info(
                f"Note: {type(model).__name__} cannot score choices behind a shared input{where}; engine=plain is used."
            )
    return known[window].rows


def _try(model: Any, plain: Callable[[Any, Batch], Tensor], window: int) -> Supported:
    fits = known_kinds(model) is not None and _takes_positions(model)
    packed = fits and can_be_packed(model) and agrees_with_plain(model, plain, _packed, window)
    rows = packed or (fits and agrees_with_plain(model, plain, _in_rows, window))  # what is packed needs no padding
    return Supported(rows, packed, rows and agrees_with_plain(model, plain, _with_new_context, window))


def token_logprob(model: Any, batch: Batch) -> Tensor:
    """`tfew.scoring.score.token_logprob` of a model that `supports` accepts."""
    supported = _supported.get(model, {}).get(window_exceeded(model, batch))
    if supported is not None and supported.packed and can_be_packed(model) and not _recomputes_layers(model):
        return _packed(model, batch)
    return in_groups_of_like_length(partial(_in_rows, model), batch, model)


def _recomputes_layers(model: Any) -> bool:
    """Whether layers run once more in the backward pass: they would get transformers' own attention there."""
    return model.training and any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def _packed(model: Any, batch: Batch, sees: Sees = RIGHT) -> Tensor:
    is_scored_B = batch.choice_mask.any(-1).any(-1)
    if not is_scored_B.all():
        found_BCT = torch.zeros(batch.choice_mask.shape, device=batch.choice_mask.device)
        if is_scored_B.any():
            found_BCT[is_scored_B] = _packed(model, batch.chosen(is_scored_B), sees)
        return found_BCT
    laid = lay_out(batch, sees.mask)
    packed = pack(laid)

    def masks_of_rows(example_R: Tensor) -> Masks:
        # not a part of `laid`, whose rows are all as long as the longest
        rows = lay_out(batch.chosen(example_R), sees.mask)
        return layer_masks(model, rows.sees_BKK, rows.position_BK, rows.position_BK, dtype(model), sees.windows)

    ids_1E, position_1E = (of_BK[packed.example_E, packed.place_E][None] for of_BK in (laid.ids_BK, laid.position_BK))
    with task_routing(batch.tasks_of(packed.example_E)), packed_attention(model, packed):
        state_1ED = _states(model, ids_1E, position_1E, packed.masks(masks_of_rows))
    return _logprob(model, batch, laid.tree, state_1ED[0, packed.packed_BK[laid.tree.example_M, laid.token_position_M]])


def _in_rows(model: Any, batch: Batch, sees: Sees = RIGHT) -> Tensor:
    laid = lay_out(batch, sees.mask)
    masks = layer_masks(model, laid.sees_BKK, laid.position_BK, laid.position_BK, dtype(model), sees.windows)
    with task_routing(batch.task_id):
        state_BKD = _states(model, laid.ids_BK, laid.position_BK, masks)
    return _logprob(model, batch, laid.tree, state_BKD[laid.tree.example_M, laid.token_position_M])


def token_logprob_with_context(model: Any, batch: Batch, context: Context) -> Tensor:
    """The same without gradients; the common prefix of the inputs is read from, or stored in, `context`.

    The number of examples at a time is chosen so that they have about as many tokens of their own as the prefix: this
    bounds wasted attention between examples, which is masked.
    """
    supported = _supported[model].get(window_exceeded(model, batch))
    # keys and values depend on each task's vectors
    shares = supported is not None and supported.context and batch.task_id is None
    length = context.length_for(batch) if shares else 0
    if length == 0:
        return token_logprob(model, batch)
    own = int(batch.input_mask.sum(-1).max()) - length + int(batch.choice_mask.sum((1, 2)).max())
    parts = batch.split(max(1, length // own))
    return torch.cat(
        [
            _with_context(model, part, context, length)
            if part.choice_mask.any()
            else torch.zeros(part.choice_mask.shape, device=part.choice_mask.device)
            for part in parts
        ]
    )


def _with_context(model: Any, batch: Batch, context: Context, length: int, sees: Sees = RIGHT) -> Tensor:
    own = replace(batch, input_ids=batch.input_ids[:, length:], input_mask=batch.input_mask[:, length:])
    laid = lay_out(own, sees.mask)
    example_E, place_E = laid.mask_BK.nonzero(as_tuple=True)
    sees_EE = laid.sees_BKK[example_E[:, None], place_E[:, None], place_E] & (example_E[:, None] == example_E)
    sees_EX = torch.cat([sees_EE.new_ones(len(sees_EE), length), sees_EE], dim=1)
    position_1E = laid.position_BK[example_E, place_E][None] + length
    position_1X = torch.cat([torch.arange(length, device=position_1E.device)[None], position_1E], dim=1)
    masks = layer_masks(model, sees_EX[None], position_1E, position_1X, dtype(model), sees.windows)
    ids_1E = laid.ids_BK[example_E, place_E][None]
    state_1ED = _states(model, ids_1E, position_1E, masks, cache=context.cache(model, batch, length))
    packed_BK = (laid.mask_BK.flatten().cumsum(0) - 1).view_as(laid.mask_BK)
    return _logprob(model, batch, laid.tree, state_1ED[0, packed_BK[laid.tree.example_M, laid.token_position_M]])


def _with_new_context(model: Any, batch: Batch, sees: Sees = RIGHT) -> Tensor:
    context = Context()
    return _with_context(model, batch, context, context.length_for(batch), sees)


def token_logprob_with_inputs(model: Any, batch: Batch, kept: KeptInputs) -> Tensor:
    """`token_logprob` without gradients, for several calls with the same inputs, which the first call computes."""
    window, known = window_exceeded(model, batch), _keeps_inputs.setdefault(model, {})
    if window not in known:
        known[window] = agrees_with_plain(model, plain_token_logprob, _with_kept_inputs, window)
    if not known[window] or batch.input_ids.shape[1] < 2:
        return token_logprob(model, batch)
    return _with_kept_inputs(model, batch, kept=kept)


def _with_kept_inputs(model: Any, batch: Batch, sees: Sees = RIGHT, kept: KeptInputs | None = None) -> Tensor:
    """Caches all tokens of each input but the last, which is put before its choices, as their root."""
    before_B1 = batch.input_mask.sum(-1, keepdim=True) - 1
    encode = partial(_input_layers, model, batch, sees)
    layers = encode() if kept is None else kept.of(batch.input_ids, encode)
    is_scored_B = batch.choice_mask.any(-1).any(-1)
    if not is_scored_B.all():
        found_BCT = torch.zeros(batch.choice_mask.shape, device=before_B1.device)
        layers = [(keys[is_scored_B], values[is_scored_B]) for keys, values in layers]
        found_BCT[is_scored_B] = _behind_kept(model, batch.chosen(is_scored_B), before_B1[is_scored_B], layers, sees)
        return found_BCT
    return _behind_kept(model, batch, before_B1, layers, sees)


def _behind_kept(
    model: Any, batch: Batch, before_B1: Tensor, layers: list[tuple[Tensor, Tensor]], sees: Sees
) -> Tensor:
    """`before_B1`: number of each input's tokens in `layers`."""
    last_B1 = batch.input_ids.gather(1, before_B1)
    laid = lay_out(replace(batch, input_ids=last_B1, input_mask=torch.ones_like(last_B1, dtype=torch.bool)), sees.mask)
    place_1L = torch.arange(batch.input_ids.shape[1] - 1, device=last_B1.device)[None]
    sees_BKL = (place_1L < before_B1)[:, None].expand(-1, laid.ids_BK.shape[1], -1)
    position_BK = laid.position_BK + before_B1
    position_BX = torch.cat([place_1L.expand(len(batch), -1), position_BK], dim=1)
    sees_BKX = torch.cat([sees_BKL, laid.sees_BKK], dim=2)
    masks = layer_masks(model, sees_BKX, position_BK, position_BX, dtype(model), sees.windows)
    with task_routing(batch.task_id):
        state_BKD = _states(model, laid.ids_BK, position_BK, masks, cache=kept_cache(layers))
    return _logprob(model, batch, laid.tree, state_BKD[laid.tree.example_M, laid.token_position_M])


def _input_layers(model: Any, batch: Batch, sees: Sees) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer, for all but the last place of the inputs."""
    ids_BL = batch.input_ids[:, :-1]
    place_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
    sees_BLL = (place_L <= place_L[:, None]).expand(len(batch), -1, -1)  # padding comes after the tokens
    position_BL = place_L.expand(len(batch), -1)
    masks = layer_masks(model, sees_BLL, position_BL, position_BL, dtype(model), sees.windows)
    cache = new_cache(model)
    with task_routing(batch.task_id):
        _states(model, ids_BL, position_BL, masks, cache=cache)
    return layers_of(cache)


def _states(model: Any, ids_BK: Tensor, position_BK: Tensor, masks: Masks, **behind: Any) -> Tensor:
    inputs = {"input_ids": ids_BK, "attention_mask": masks, "position_ids": position_BK}
    state_BKD: Tensor = model.base_model(**inputs, use_cache=bool(behind), **behind)[0]
    return state_BKD


def _logprob(model: Any, batch: Batch, tree: Prefixes, state_MD: Tensor) -> Tensor:
    logprob_P = token_logprob_of_states(state_MD, output_head(model), tree.prefix_P, tree.target_P, by_softmax=True)
    return logprob_P.new_zeros(batch.choice_mask.shape).masked_scatter(batch.choice_mask, logprob_P)


def _takes_positions(model: Any) -> bool:
    return "position_ids" in inspect.signature(model.base_model.forward).parameters
