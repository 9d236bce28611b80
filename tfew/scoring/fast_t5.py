"""The T5 fast path: packed tokens, so padding costs nothing, and one encoding shared by all choices.

transformers' own stacks are used; only the forward of their attention layers is replaced during a call (so a model
can be used by one thread at a time). It projects the packed tokens, unpacks queries, keys and values into rows, and
packs the result again:

    encoder self-attention     rows: examples; T5's relative positions and the padding mask, joined once for all layers
    decoder self-attention     rows: choices; a shared prefix is in each row that it belongs to
    cross-attention            rows: examples; the queries of all choices side by side on the example's keys and values

So a method's changes to a projection, a feed-forward or a norm take effect; changes to attention itself (other keys,
prepended states) would not, and `supports` returns False.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import scaled_dot_product_attention
from transformers.activations import GELUTanh, NewGELUActivation
from transformers.models.mt5.modeling_mt5 import MT5Attention, MT5Stack
from transformers.models.t5.modeling_t5 import T5Attention, T5Stack

from tfew.kernels.attention import Rows, attention_with_dropout, rows_of_like_length, rows_with_shared_keys
from tfew.schema import Batch
from tfew.scoring.chunks import in_chunks
from tfew.scoring.context import KeptInputs
from tfew.scoring.packing import Packing, packing, packing_by_row
from tfew.scoring.prefixes import prefixes
from tfew.scoring.routing import task_routing
from tfew.scoring.text_config import decoder_start_id
from tfew.scoring.vocabulary import token_logprob_of_states

log = logging.getLogger(__name__)
STACKS = (T5Stack, MT5Stack)
ATTENTION = (T5Attention, MT5Attention)
_noted: "WeakSet[nn.Module]" = WeakSet()
MASK_IN_BIAS = torch.empty(1, 1, 1, 1)  # transformers passes on a 4D mask unchanged: here to attention that needs none


def is_of_this_kind(model: Any) -> bool:
    return isinstance(model.get_decoder(), STACKS)


def supports(model: Any) -> bool:
    """Whether this is a T5 whose attention is unmodified and is called as this engine expects; logged once if not."""
    fits = is_of_this_kind(model) and _is_unchanged(model)
    if not fits and model not in _noted:
        _noted.add(model)
        log.info(
            f"Note: the attention of this {type(model).__name__} is modified (by its method, or by gradient"
            " checkpointing); engine=plain is used."
        )
    return fits


def _is_unchanged(model: Any) -> bool:
    stacks = [model.get_encoder(), model.get_decoder()]
    if not all(map(_is_own, stacks)):
        return False
    modules = [module for stack in stacks for module in stack.modules()]
    if any(getattr(module, "gradient_checkpointing", False) for module in modules):
        return False  # layers would be recomputed with transformers' own attention
    attention = [module for module in modules if isinstance(module, ATTENTION)]
    return all(type(module) in ATTENTION and "forward" not in vars(module) for module in attention)


def _is_own(stack: nn.Module) -> bool:
    """Whether the stack is unmodified, or changed only by FSDP2, which gathers weights: by a class and two hooks."""
    shared = isinstance(stack, FSDPModule)
    kind = type(stack).__bases__[-1] if shared else type(stack)
    return kind in STACKS and len(stack._forward_hooks) + len(stack._forward_pre_hooks) == 2 * shared


def token_logprob(model: Any, batch: Batch, parts: int = 1, kept: KeptInputs | None = None) -> Tensor:
    """`tfew.scoring.score.token_logprob` of a model that `supports` accepts."""
    encoded = _encoded(model, batch) if kept is None else kept.of(batch.input_ids, partial(_encoded, model, batch))
    if parts == 1:
        return _decoded(model, *encoded, batch)
    return in_chunks(partial(_decoded, model, *encoded), batch, parts)


def _encoded(model: Any, batch: Batch) -> tuple[Packing, Tensor | None, Tensor]:
    """The inputs' packing, the tasks of their tokens, and the tokens' encoder states."""
    inputs = packing(batch.input_mask)
    task_E = batch.tasks_of(batch.input_mask.nonzero()[:, 0])
    layout = _Layout(inputs, inputs, inputs, task_E)
    with _packed_attention(model.get_encoder(), layout), task_routing(task_E):
        packed_1E = batch.input_ids[batch.input_mask][None]
        state_1ED: Tensor = model.get_encoder()(input_ids=packed_1E, attention_mask=MASK_IN_BIAS)[0]
    return inputs, task_E, state_1ED


def _decoded(model: Any, inputs: Packing, task_E: Tensor | None, state_1ED: Tensor, batch: Batch) -> Tensor:
    """`token_logprob` from the encoder's states and the tasks of the inputs' tokens."""
    tree = prefixes(batch)
    choices = Packing((len(tree.prefix_NT), tree.prefix_NT.shape[1]), None, tree.prefix_NT, tree.token_position_M)
    queries = packing_by_row(tree.example_M, len(batch))
    start = decoder_start_id(model)
    packed_1M = tree.last_token_M.masked_fill(tree.depth_M == 0, start)[None]
    layout = _Layout(choices, queries, inputs, task_E)
    with _packed_attention(model.get_decoder(), layout), task_routing(batch.tasks_of(tree.example_M)):
        state_1MD = model.get_decoder()(
            input_ids=packed_1M,
            attention_mask=MASK_IN_BIAS,
            encoder_hidden_states=state_1ED,
            encoder_attention_mask=MASK_IN_BIAS,
            use_cache=False,
        )[0]
    if getattr(model.config, "scale_decoder_outputs", False):  # the first T5, whose head is its embeddings
        state_1MD = state_1MD * model.config.d_model**-0.5
    logprob_P = token_logprob_of_states(state_1MD[0], model.get_output_embeddings(), tree.prefix_P, tree.target_P)
    return logprob_P.new_zeros(batch.choice_mask.shape).masked_scatter(batch.choice_mask, logprob_P)


@dataclass(frozen=True)
class _Layout:
    """Rows of a stack's own tokens, and those of queries and keys in cross-attention (decoder only).

    key_task_E: the tasks of the tokens from which keys are computed.
    """

    own: Packing
    queries: Packing
    keys: Packing
    key_task_E: Tensor | None

    def rows(self, crosses: bool, heads: int) -> Rows:
        """The same rows for attention with dropout on a CPU."""
        if crosses:
            return rows_of_like_length(self.queries.length_R, self.keys.length_R, heads)
        if self.own is self.keys:
            return rows_of_like_length(self.own.length_R, self.own.length_R, heads)
        assert self.own.token_RW is not None  # choices
        assert self.own.row_position_E is not None
        return rows_with_shared_keys(self.own.token_RW, self.own.row_position_E, heads)


@dataclass(frozen=True)
class _RowsAndBiases:
    """Passed from layer to layer by attention with dropout on a CPU; a bias is added to the scores of a group."""

    rows: Rows
    bias_of_group: list[Tensor | None]


@contextmanager
def _packed_attention(stack: nn.Module, layout: _Layout) -> Iterator[None]:
    """A context with attention as above, and T5 v1.1's activation of eight operations replaced by torch's own."""
    attention = [module for module in stack.modules() if type(module) in ATTENTION]
    slow = [module for module in stack.modules() if type(getattr(module, "act", None)) is NewGELUActivation]
    activations: list[Any] = [module.act for module in slow]
    try:
        for module in attention:
            module.forward = partial(_attend, module, layout)
        for module in slow:
            module.act = GELUTanh()
        yield
    finally:
        for module in attention:
            del module.forward
        for module, activation in zip(slow, activations, strict=True):
            module.act = activation


def _attend(
    self: Any,
    layout: _Layout,
    hidden_states: Tensor,
    mask: Tensor | None = None,
    key_value_states: Tensor | None = None,
    position_bias: Tensor | _RowsAndBiases | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor | _RowsAndBiases | None, None]:
    """Replaces T5Attention.forward; the bias that is passed from layer to layer includes the mask."""
    crosses = key_value_states is not None
    query_rows, key_rows = (layout.queries, layout.keys) if crosses else (layout.own, layout.own)
    source = key_value_states if crosses else hidden_states
    queries = self.q(hidden_states)
    with task_routing(layout.key_task_E) if crosses else nullcontext():  # these are of the inputs' tokens
        keys, values = self.k(source), self.v(source)
    dropout = self.dropout if self.training else 0.0
    if position_bias is None and queries.device.type == "cpu" and 0 < dropout < 1:  # torch has no kernel for it
        position_bias = _rows_and_biases(self, layout.rows(crosses, self.n_heads), queries)
    if isinstance(position_bias, _RowsAndBiases):
        packed = attention_with_dropout(
            queries[0], keys[0], values[0], position_bias.rows, position_bias.bias_of_group, dropout, self.scaling
        )
        return self.o(packed[None]), position_bias, None
    query, key, value = (
        rows.unpack(packed[0]).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        for rows, packed in ((query_rows, queries), (key_rows, keys), (key_rows, values))
    )
    if position_bias is None:
        position_bias = _bias(self, key_rows, query)
    attended = scaled_dot_product_attention(
        query, key, value, attn_mask=position_bias, dropout_p=dropout, scale=self.scaling
    )
    packed = query_rows.pack(attended.transpose(1, 2).flatten(2))
    return self.o(packed[None]), position_bias, None


def _rows_and_biases(attention: Any, rows: Rows, states: Tensor) -> _RowsAndBiases | None:
    """None if relative positions are trained: torch then computes all layers, which share them."""
    widest = max(group.shape_RHQK[3] for group in rows.groups)
    lowest = torch.finfo(states.dtype).min
    positions = None
    if attention.has_relative_attention_bias:
        positions = attention.compute_bias(widest, widest, device=states.device).to(states.dtype)
        if positions.requires_grad:
            return None
    biases: list[Tensor | None] = []
    for group in rows.groups:
        queries, keys = group.shape_RHQK[2:]
        bias = None if positions is None else positions[:, :, :queries, :keys]
        if attention.is_causal:
            later_QK = torch.ones(queries, keys, dtype=torch.bool).triu(1)
            bias = (states.new_zeros(()) if bias is None else bias).masked_fill(later_QK, lowest)
        if group.is_key_RK is not None:
            bias = torch.where(group.is_key_RK[:, None, None], states.new_zeros(()) if bias is None else bias, lowest)
        biases.append(bias)
    return _RowsAndBiases(rows, biases)


def _bias(attention: Any, keys: Packing, query_BHLK: Tensor) -> Tensor | None:
    """The tensor added to the scores: relative positions, and the lowest number at masked places."""
    lowest = torch.finfo(query_BHLK.dtype).min
    bias = query_BHLK.new_zeros(())
    if attention.has_relative_attention_bias:
        width = query_BHLK.shape[2]
        bias = attention.compute_bias(width, width, device=query_BHLK.device).to(query_BHLK.dtype)
    if attention.is_causal:
        width = keys.shape[1]
        causal_mask_QK = torch.ones(width, width, dtype=torch.bool, device=bias.device).tril()
        return bias.masked_fill(~causal_mask_QK, lowest)
    if keys.mask_RW is not None:
        return torch.where(keys.mask_RW[:, None, None], bias, lowest)
    return bias if attention.has_relative_attention_bias else None
