"""An input and all its choices in one row: the prefixes of all choices follow the input.

Each has the position that it has in its own choice, and attends to the input and to the earlier tokens of its choice
only. The row ends with padding.

A layer with a window attends only to tokens less than that many positions back, one with chunks to tokens of the same
chunk; positions are those in a token's own text, not in the row. transformers accepts such masks directly: one
`[B, 1, K, X]`, or one for each kind of layer, by name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tfew.schema import Batch
from tfew.scoring.prefixes import Prefixes, prefixes
from tfew.scoring.text_config import layer_kinds, text_config

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
Masks = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class PrefixLayout:
    """Inputs and the prefixes of their choices in rows of K places; `token_position_M` is the end of each prefix.

    `mask_BK` is false at padding.
    """

    tree: Prefixes
    length_B: Tensor
    token_position_M: Tensor
    ids_BK: Tensor
    position_BK: Tensor
    mask_BK: Tensor
    visible: "Visible"

    @cached_property
    def sees_BKK(self) -> Tensor:
        """Which keys (last) each query sees, apart from layers' windows."""
        return self.visible(self.tree, self.length_B, self.token_position_M, self.ids_BK.shape[1])


Visible = Callable[[Prefixes, Tensor, Tensor, int], Tensor]


def lay_out(batch: Batch, visible: Visible) -> PrefixLayout:
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
    return PrefixLayout(tree, length_B, token_position_M, ids_BK, position_BK, mask_BK, visible)


def own_prefixes(tree: Prefixes, length_B: Tensor, token_position_M: Tensor, width: int) -> Tensor:
    """`[B, K, K]`: which keys (last) a query sees: the input up to itself, and the prefixes of its prefix."""
    token_position_K = torch.arange(width, device=length_B.device)
    sees_BKK = (token_position_K <= token_position_K[:, None]) & (token_position_K < length_B[:, None, None])
    for t in range(1, tree.prefix_NT.shape[1]):  # what the prefix without its last token sees, and itself
        longer = tree.length_N > t
        before_N, prefix_N = tree.prefix_NT[longer, t - 1], tree.prefix_NT[longer, t]
        example_N, query_N = tree.example_M[prefix_N], token_position_M[prefix_N]
        sees_BKK[example_N, query_N] = sees_BKK[example_N, token_position_M[before_N]]
        sees_BKK[example_N, query_N, query_N] = True
    sees_BKK[:, token_position_K, token_position_K] = True  # padding must see something
    return sees_BKK


def whole_row(tree: Prefixes, length_B: Tensor, token_position_M: Tensor, width: int) -> Tensor:
    """A mask that shows too much: all earlier tokens, including other choices."""
    return torch.ones(len(length_B), width, width, dtype=torch.bool, device=length_B.device).tril()


class Sees(NamedTuple):
    """What tokens of a row see: a mask, and whether layers' windows apply."""

    mask: Visible
    windows: bool = True


RIGHT, TOO_MUCH, BEYOND_WINDOWS = Sees(own_prefixes), Sees(whole_row), Sees(own_prefixes, windows=False)


def _widened(ids_BL: Tensor, width: int) -> Tensor:
    ids_BK = ids_BL.new_zeros(len(ids_BL), width)
    kept = min(width, ids_BL.shape[1])
    ids_BK[:, :kept] = ids_BL[:, :kept]
    return ids_BK


def known_kinds(model: Any) -> list[str] | None:
    """The model's kinds of layers if masks can be made for all of them, else None (recurrent layers, ...)."""
    kinds = layer_kinds(model)
    if kinds is None:
        kinds = [FULL] if _size(model, SLIDING) is None else [SLIDING]
    return kinds if set(kinds) <= {FULL, SLIDING, CHUNKED} else None


def layer_masks(
    model: Any, sees_BKX: Tensor, position_BK: Tensor, position_BX: Tensor, dtype: torch.dtype, windows: bool = True
) -> Masks:
    """The masks to add to attention scores for queries and keys at these positions; windows only with `windows`."""
    kinds = known_kinds(model) or [FULL]
    masks = {
        kind: added(
            sees_BKX & _near(kind, _size(model, kind), position_BK, position_BX) if windows else sees_BKX, dtype
        )
        for kind in kinds
    }
    return masks if len(kinds) > 1 else masks[kinds[0]]


def added(sees_BKX: Tensor, dtype: torch.dtype) -> Tensor:
    """`[B, 1, K, X]`: 0 where a key is seen, the lowest number where not."""
    mask_BKX = torch.zeros(sees_BKX.shape, dtype=dtype, device=sees_BKX.device)
    return mask_BKX.masked_fill(~sees_BKX, torch.finfo(dtype).min)[:, None]


def _size(model: Any, kind: str) -> int | None:
    name = {SLIDING: "sliding_window", CHUNKED: "attention_chunk_size"}.get(kind)
    config = text_config(model)
    if name is None or getattr(config, "use_sliding_window", True) is False:
        return None
    return getattr(config, name, None)


def _near(kind: str, size: int | None, position_BK: Tensor, position_BX: Tensor) -> Tensor:
    query_BK1, key_B1X = position_BK[:, :, None], position_BX[:, None]
    if size is None:
        return torch.ones((), dtype=torch.bool, device=position_BK.device)
    return query_BK1 // size == key_B1X // size if kind == CHUNKED else query_BK1 - key_B1X < size
