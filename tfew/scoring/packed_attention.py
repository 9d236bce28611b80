"""Attention of a decoder-only model over packed tokens: one row of all examples' tokens, without padding.

Projections, feed-forward and norms work token by token, so they need no rows. Attention does: it puts the examples into
rows, those of similar length together, and its result is packed again. transformers looks a model's attention function
up by the name in its configuration; within `packed_attention` that name is `PACKED`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tfew.scoring.chunks import length_groups, pass_tokens
from tfew.scoring.packing import Packing, packing
from tfew.scoring.prefix_layout import Masks, PrefixLayout
from tfew.scoring.text_config import text_config

PACKED, WITHIN_ROWS = "tfew_packed", "sdpa"
ALIGNED = 16  # elements: the memory-efficient kernel of a GPU refuses a mask that starts anywhere


@dataclass(frozen=True)
class Group:
    """Examples of similar length: R rows of width W."""

    example_R: Tensor
    rows: Packing

    @property
    def tokens(self) -> int:
        rows, width = self.rows.shape
        return rows * width if self.rows.row_position_E is None else len(self.rows.row_position_E)

    @property
    def mask_size(self) -> int:
        """Elements of the group's mask, up to where the next group's starts."""
        rows, width = self.rows.shape
        return -(-rows * width * width // ALIGNED) * ALIGNED


@dataclass(frozen=True)
class PackedExamples:
    """E packed tokens, group by group: the example and the place in its row of each, and `packed_BK`, their inverse."""

    groups: list[Group]
    example_E: Tensor
    place_E: Tensor
    packed_BK: Tensor

    def masks(self, mask_of_rows: Callable[[Tensor], Masks]) -> Masks:
        """`mask_of_rows(example_R)` of all groups, `[R, 1, W, W]`, one behind another as `[1, 1, 1, X]`."""
        of_groups = [mask_of_rows(group.example_R) for group in self.groups]
        if isinstance(of_groups[0], dict):
            return {kind: _joined([masks[kind] for masks in of_groups]) for kind in of_groups[0]}  # type: ignore[index]
        return _joined(of_groups)  # type: ignore[arg-type]


def can_be_packed(model: Any) -> bool:
    """Whether the model looks its attention function up by name, and uses torch's."""
    looks_up = getattr(model, "_supports_attention_backend", False)
    return looks_up and text_config(model)._attn_implementation == WITHIN_ROWS


def pack(laid: PrefixLayout) -> PackedExamples:
    """Each row of `laid` needs at least one token."""
    length_B = laid.mask_BK.sum(-1)
    groups, example_of_group, place_of_group = [], [], []
    for indices in length_groups(length_B.tolist(), pass_tokens(length_B.device)):
        example_R = torch.tensor(indices, device=length_B.device)
        mask_RW = laid.mask_BK[example_R, : int(length_B[indices[0]])]
        groups.append(Group(example_R, packing(mask_RW)))
        row_E, place_E = mask_RW.nonzero(as_tuple=True)
        example_of_group.append(example_R[row_E])
        place_of_group.append(place_E)
    example_E, place_E = torch.cat(example_of_group), torch.cat(place_of_group)
    packed_BK = torch.zeros(laid.mask_BK.shape, dtype=torch.long, device=length_B.device)
    packed_BK[example_E, place_E] = torch.arange(len(example_E), device=length_B.device)
    return PackedExamples(groups, example_E, place_E, packed_BK)


_current: ContextVar[PackedExamples] = ContextVar("current")


@contextmanager
def packed_attention(model: Any, packed: PackedExamples) -> Iterator[None]:
    """A context in which the model's attention gets one row of these tokens and masks of `PackedExamples.masks`.

    For one thread at a time: the model's configuration is changed.
    """
    ALL_ATTENTION_FUNCTIONS.register(PACKED, _attend)
    config = text_config(model)
    before = config._attn_implementation
    reset = _current.set(packed)
    config._attn_implementation_internal = PACKED  # the public name would set nested configurations, too
    try:
        yield
    finally:
        config._attn_implementation_internal = before
        _current.reset(reset)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **settings: Any
) -> tuple[Tensor, None]:
    """`query`, `key` and `value` `[1, heads, E, D]` to `[1, E, heads, D]`."""
    groups = _current.get().groups
    tokens = [group.tokens for group in groups]
    of_groups = zip(*(_tokens(x).split(tokens) for x in (query, key, value)), strict=True)
    masks = attention_mask.flatten().split([group.mask_size for group in groups])
    attend, heads = ALL_ATTENTION_FUNCTIONS[WITHIN_ROWS], (query.shape[1], key.shape[1], value.shape[1])
    attended = []
    for group, states, mask in zip(groups, of_groups, masks, strict=True):
        rows, width = group.rows.shape
        q, k, v = (
            group.rows.unpack(x).unflatten(-1, (count, -1)).transpose(1, 2)
            for x, count in zip(states, heads, strict=True)
        )
        result_RWHD = attend(module, q, k, v, mask[: rows * width * width].view(rows, 1, width, width), **settings)[0]
        attended.append(group.rows.pack(result_RWHD.flatten(2)))
    return torch.cat(attended).unflatten(-1, (heads[0], -1))[None], None


def _tokens(x_1HED: Tensor) -> Tensor:
    """`[E, heads * D]`."""
    return x_1HED[0].transpose(0, 1).flatten(1)


def _joined(masks: list[Tensor]) -> Tensor:
    return torch.cat([pad(mask.flatten(), (0, -mask.numel() % ALIGNED)) for mask in masks])[None, None, None]
