"""What each kind of layer sees of the tokens before it, where a row holds more than one text.

A layer with a window sees tokens that lie less than so many positions back, one with chunks those of its own chunk;
positions are those in a token's own text, not in the row. transformers takes such masks ready made: one `[B, 1, K, X]`,
or one for each kind of layer by its name.
"""

from typing import Any

import torch
from torch import Tensor

from tfew.scoring.text_config import layer_kinds, text_config

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
Masks = Tensor | dict[str, Tensor]


def known_kinds(model: Any) -> list[str] | None:
    """The model's kinds of layers where masks can be made for all of them; None where not (recurrent ones, ...)."""
    kinds = layer_kinds(model)
    if kinds is None:
        kinds = [FULL] if _size(model, SLIDING) is None else [SLIDING]
    return kinds if set(kinds) <= {FULL, SLIDING, CHUNKED} else None


def layer_masks(
    model: Any, sees_BKX: Tensor, position_BK: Tensor, position_BX: Tensor, dtype: torch.dtype, windows: bool = True
) -> Masks:
    """What is added to attention's scores, of queries and keys at these positions; without `windows` none is heeded."""
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
