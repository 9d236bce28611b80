"""Compacter (Mahabadi et al. 2021, arXiv 2106.04647): adapters of parametrised hypercomplex multiplication (PHM).

Like `adapter.py`, but both matrices are sums of Kronecker products of a small matrix and a low-rank one:

    y = x W + b,    W [in, out] = sum over i = 1..n of kron(A_i [n, n], left_i [in/n, rank] right_i [rank, out/n])

As in the official code (`configs/compacter.json`, `configs/compacter_pp.json`): n = 4, rank 1, each layer has its own A
(the Compacter paper shares them), A ~ N(0, 0.02²), left and right Glorot uniform with gain sqrt(2), b = 0, and the
layer norms are trained too. Compacter is after self-attention and feed-forward, Compacter++ after feed-forward only.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tfew.errors import UserError
from tfew.methods.adapter import Adapter, Bottleneck, drawn_normal, empty_for, inner_width, zeros


class PHMLinear(nn.Module):
    """`x W + b` with W built from A `[n, n, n]`, left `[n, in/n, rank]` and right `[n, rank, out/n]`."""

    def __init__(self, inputs: int, outputs: int, n: int, rank: int, init_std: float, device: torch.device) -> None:
        super().__init__()
        self.A = drawn_normal([n, n, n], init_std, device)
        self.left = _drawn_glorot(n, inputs // n, rank, device)
        self.right = _drawn_glorot(n, rank, outputs // n, device)
        self.bias = zeros(outputs, device)

    def weight(self) -> Tensor:
        """W `[in, out]`; row (a, p) and column (b, q) hold the sum over i of A_i[a, b] (left_i right_i)[p, q]."""
        blocks = torch.einsum("iab,ipq->apbq", self.A, self.left @ self.right)
        return blocks.flatten(2, 3).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight() + self.bias


class Compacter(Adapter):
    """An adapter at the same places whose two matrices are PHM layers."""

    def __init__(
        self, places: Sequence[str], reduction: int, n: int, rank: int, init_std: float, layer_norms: bool
    ) -> None:
        super().__init__(places, reduction, init_std, layer_norms)
        self.n, self.rank = n, rank

    def _bottleneck(self, width: int, device: torch.device) -> Bottleneck:
        inner = inner_width(width, self.reduction)
        if width % self.n or inner % self.n:
            works = (
                "another n works" if width % self.n else f"method.reduction={width // self.n} is the largest that works"
            )
            raise UserError(
                f"Compacter needs the model's width {width} and the inner width {inner} (method.reduction="
                f"{self.reduction}) to be divisible by method.n={self.n}; {works}."
            )
        down = PHMLinear(width, inner, self.n, self.rank, self.init_std, device)
        return Bottleneck(down, PHMLinear(inner, width, self.n, self.rank, self.init_std, device))


def _drawn_glorot(n: int, rows: int, columns: int, device: torch.device) -> nn.Parameter:
    """n matrices, uniform within sqrt(2) sqrt(6 / (rows + columns)), drawn on the CPU as in `drawn_normal`."""
    bound = math.sqrt(2) * math.sqrt(6 / (rows + columns))
    drawn = empty_for((n, rows, columns), device).uniform_(-bound, bound)
    return nn.Parameter(drawn.to(device))
