"""Conversion between packed tokens, without padding, and padded rows.

Everything that works token by token (projections, feed-forward, norms: nearly all of the work) uses packed tokens; only
attention needs rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """R rows of width W over E packed tokens; `mask_RW` is false at padding, None if there is none.

    `token_RW` is the packed token at each position, `row_position_E` the position (of R W) of each packed token; both
    are None if packed tokens and rows have the same order without padding. A token may be at several positions.
    """

    shape: tuple[int, int]
    mask_RW: Tensor | None = None
    token_RW: Tensor | None = None
    row_position_E: Tensor | None = None

    @property
    def length_R(self) -> Tensor:
        """Number of tokens in each row."""
        rows, width = self.shape
        return torch.full((rows,), width) if self.mask_RW is None else self.mask_RW.sum(-1)

    def unpack(self, packed_EX: Tensor) -> Tensor:
        """`[E, X]` to `[R, W, X]`; padding repeats some token."""
        if self.token_RW is not None:
            packed_EX = packed_EX.index_select(0, self.token_RW.flatten())
        return packed_EX.view(*self.shape, packed_EX.shape[-1])

    def pack(self, rows_RWX: Tensor) -> Tensor:
        """`[R, W, X]` to `[E, X]`."""
        packed_EX = rows_RWX.flatten(0, 1)
        return packed_EX if self.row_position_E is None else packed_EX.index_select(0, self.row_position_E)


def packing(mask_RW: Tensor) -> Packing:
    """The packing of rows in which each token occurs once."""
    rows, width = mask_RW.shape
    if bool(mask_RW.all()):
        return Packing((rows, width))
    token_RW = (mask_RW.flatten().cumsum(0) - 1).clamp(min=0).view(rows, width)
    return Packing((rows, width), mask_RW, token_RW, mask_RW.flatten().nonzero()[:, 0])


def packing_by_row(row_E: Tensor, rows: int) -> Packing:
    """The packing from each token's row index; packed tokens of a row are consecutive."""
    count_R = torch.bincount(row_E, minlength=rows)
    width = int(count_R.max())
    return packing(torch.arange(width, device=row_E.device) < count_R[:, None])
