"""Tokens in a line, without padding, and the same tokens in padded rows, and the way between the two.

All that works token by token (projections, feed-forward, norms: nearly all of the work) runs over the line; only
attention needs rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """R rows of width W over a line of E tokens; `present_RW` marks what is no padding, None where all is.

    `token_RW` says which token of the line stands at a place, `place_E` at which place (of R W) a token stands; both
    are None where line and rows are the same numbers in the same order. A token may stand at several places.
    """

    shape: tuple[int, int]
    present_RW: Tensor | None = None
    token_RW: Tensor | None = None
    place_E: Tensor | None = None

    def padded(self, packed_EX: Tensor) -> Tensor:
        """`[E, X]` to `[R, W, X]`; padding repeats some token."""
        if self.token_RW is not None:
            packed_EX = packed_EX.index_select(0, self.token_RW.flatten())
        return packed_EX.view(*self.shape, packed_EX.shape[-1])

    def line(self, rows_RWX: Tensor) -> Tensor:
        """`[R, W, X]` to `[E, X]`."""
        packed_EX = rows_RWX.flatten(0, 1)
        return packed_EX if self.place_E is None else packed_EX.index_select(0, self.place_E)


def packing(present_RW: Tensor) -> Rows:
    """Rows in which each token stands once, row by row."""
    rows, width = present_RW.shape
    if bool(present_RW.all()):
        return Rows((rows, width))
    token_RW = (present_RW.flatten().cumsum(0) - 1).clamp(min=0).view(rows, width)
    return Rows((rows, width), present_RW, token_RW, present_RW.flatten().nonzero()[:, 0])


def packing_by_row(row_E: Tensor, rows: int) -> Rows:
    """Rows from each token's row; tokens of a row follow one another in the line."""
    count_R = torch.bincount(row_E, minlength=rows)
    width = int(count_R.max())
    return packing(torch.arange(width, device=row_E.device) < count_R[:, None])
