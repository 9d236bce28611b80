"""Encoder-decoders of any kind: each input is encoded once, and the prefixes of all its choices form one decoder row.

Such a row is that of a decoder-only model whose input is the start token (`tfew.scoring.prefix_layout`), and
cross-attention computes its keys and values once per example, not per choice. Inputs are padded; for T5 there is an
engine without padding (`tfew.scoring.fast_t5`).

A decoder needs the position of each prefix. Some accept positions; others count places in the row, for a table of
positions (BART) or for relative positions added to the scores (UMT5): during a call these are looked up by position
instead. `supports` tests it (`tfew.scoring.self_test`).
"""

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tfew.schema import Batch
from tfew.scoring.chunks import in_chunks, in_groups_of_like_length
from tfew.scoring.context import KeptInputs
from tfew.scoring.output_head import output_head
from tfew.scoring.prefix_layout import FULL, RIGHT, Masks, Sees, added, known_kinds, lay_out, layer_masks
from tfew.scoring.routing import task_routing
from tfew.scoring.self_test import agrees_with_plain, dtype, window_exceeded
from tfew.scoring.text_config import decoder_start_id
from tfew.scoring.vocabulary import token_logprob_of_states

log = logging.getLogger(__name__)
CAPACITY = "expert_capacity"  # maximum tokens of a row per expert: choices in one row would compete
TAKEN = {"input_ids", "attention_mask", "encoder_hidden_states", "encoder_attention_mask"}
BIAS = "has_relative_attention_bias"

_supported: "WeakKeyDictionary[nn.Module, dict[int, bool]]" = WeakKeyDictionary()


def supports(model: Any, plain: Callable[[Any, Batch], Tensor], batch: Batch | None = None) -> bool:
    """Whether this engine agrees with `plain` with the current weights, for as many choices as the batch's.

    Tested once per model and per window that a row of choices exceeds; a disagreement is logged once.
    """
    window = window_exceeded(model, batch)
    known = _supported.setdefault(model, {})
    if window not in known:
        fits = known_kinds(model) is not None and getattr(model.config, CAPACITY, None) is None
        fits = fits and _can_be_told(model.get_decoder())
        known[window] = fits and agrees_with_plain(model, plain, token_logprob, window)
        if not known[window] and all(known[other] for other in known if other != window):
            log.info(f"Note: {type(model).__name__} cannot score choices beside one another; engine=plain is used.")
    return known[window]


def _can_be_told(decoder: Any) -> bool:
    """Whether it takes masks and states by the usual names, contains no output head, and has settable positions."""
    taken = inspect.signature(decoder.forward).parameters
    if not taken.keys() >= TAKEN or decoder.get_output_embeddings() is not None:
        return False
    told = "position_ids" in taken or hasattr(decoder, "embed_positions")
    return told or any(getattr(module, BIAS, False) for module in decoder.modules())


def token_logprob(
    model: Any, batch: Batch, parts: int = 1, kept: KeptInputs | None = None, sees: Sees = RIGHT
) -> Tensor:
    """`tfew.scoring.score.token_logprob` of a model that `supports` accepts; `sees`: another mask."""
    if kept is None and parts == 1:
        return in_groups_of_like_length(
            lambda group: _decoded(model, _encoded(model, group), group, sees), batch, model
        )
    encode = partial(_encoded, model, batch)
    state_BLD = encode() if kept is None else kept.of(batch.input_ids, encode)
    if parts == 1:
        return _decoded(model, state_BLD, batch, sees)
    return in_chunks(partial(_decoded, model, state_BLD), batch, parts)


def _encoded(model: Any, batch: Batch) -> Tensor:
    with task_routing(batch.task_id):
        state_BLD: Tensor = model.get_encoder()(input_ids=batch.input_ids, attention_mask=batch.input_mask.long())[0]
    return state_BLD


def _decoded(model: Any, state_BLD: Tensor, batch: Batch, sees: Sees = RIGHT) -> Tensor:
    start_B1 = torch.full_like(batch.input_ids[:, :1], decoder_start_id(model))
    laid = lay_out(
        replace(batch, input_ids=start_B1, input_mask=torch.ones_like(start_B1, dtype=torch.bool)), sees.mask
    )
    masks = layer_masks(model, laid.sees_BKK, laid.position_BK, laid.position_BK, dtype(model), sees.windows)
    decoder = model.get_decoder()
    inputs: Masks = batch.input_mask.long()
    if isinstance(masks, dict):  # masks per kind of layer may be combined with this one: same dtype
        sees_BKL = batch.input_mask[:, None].expand(-1, laid.ids_BK.shape[1], -1)
        inputs = {FULL: added(sees_BKL, dtype(model))}
    with task_routing(batch.task_id), _positions(decoder, laid.position_BK) as told:
        state_BKD = decoder(
            input_ids=laid.ids_BK,
            attention_mask=masks,
            encoder_hidden_states=state_BLD,
            encoder_attention_mask=inputs,
            use_cache=False,
            **told,
        )[0]
    state_MD = state_BKD[laid.tree.example_M, laid.token_position_M]
    logprob_P = token_logprob_of_states(state_MD, output_head(model), laid.tree.prefix_P, laid.tree.target_P)
    return logprob_P.new_zeros(batch.choice_mask.shape).masked_scatter(batch.choice_mask, logprob_P)


@contextmanager
def _positions(decoder: Any, position_BK: Tensor) -> Iterator[dict[str, Tensor]]:
    """The decoder's arguments for positions; in this context, modules that count places look positions up instead."""
    if "position_ids" in inspect.signature(decoder.forward).parameters:
        yield {"position_ids": position_BK}
        return
    replaced: list[tuple[Any, str]] = []

    def replace_by(look_up: Callable[..., Tensor], module: Any, name: str) -> None:
        setattr(module, name, partial(look_up, getattr(module, name), position_BK))
        replaced.append((module, name))

    try:
        if hasattr(decoder, "embed_positions"):
            replace_by(_from_table, decoder.embed_positions, "forward")
        for module in decoder.modules():
            if getattr(module, BIAS, False):
                replace_by(_from_bias, module, "compute_bias")
        yield {}
    finally:
        for module, name in replaced:
            delattr(module, name)


def _from_table(table: Callable[..., Tensor], position_BK: Tensor, first: Any, *_: Any, **named: Any) -> Tensor:
    """A row's position embeddings, gathered from those of a row with consecutive positions.

    `first` is the table's argument: the row's ids, its shape or its states; some tables get the count, too.
    """
    width = int(position_BK.max()) + 1
    counted: Any = (1, width)
    if isinstance(first, Tensor):
        counted = torch.ones_like(first[:1, :1]).expand(1, width, *first.shape[2:])
    counts = torch.arange(width, device=position_BK.device)
    table_WD = table(counted, position_ids=counts) if "position_ids" in named else table(counted)
    return table_WD.view(width, table_WD.shape[-1])[position_BK]


def _from_bias(compute: Callable[..., Tensor], position_BK: Tensor, *_: Any, **__: Any) -> Tensor:
    """`[B, H, K, K]`, from the relative biases `[1, H, W, W]` of a row with consecutive positions."""
    width = int(position_BK.max()) + 1
    bias_HWW = compute(width, width, device=position_BK.device)[0]
    return bias_HWW[:, position_BK[:, :, None], position_BK[:, None]].transpose(0, 1)
