"""BitFit (Zaken et al. 2021, arXiv 2106.10199): only biases are trained, and here the layer norms with them.

T5 has no biases, so every chosen linear layer gets one of zeros (the model is unchanged), float32 whatever the base
is. The official code (`configs/bitfit.json`) chooses by the pattern "q|k|v|o|wi_[01]|w_o"; the feed-forward's second
matrix is called `wo` and so never has a bias there. A layer that has a bias already is left as it is and its bias
unfrozen, in its own type.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tfew.methods.base import Method
from tfew.methods.surgery import features, require_linears, swap_class, train_layer_norms


class Biased(nn.Module):
    """Adds `added_bias` `[outputs]` to what a linear layer gives; not `bias`, which has to have the weight's type."""

    added_bias: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        return (output + self.added_bias).to(output.dtype)


class BitFit(Method):
    """`linears` are last name parts of linear layers; the defaults are in `configs/method/bitfit.yaml`."""

    merges = False  # T5's layers have no biases to fold them into

    def __init__(self, linears: Sequence[str], layer_norms: bool) -> None:
        self.linears = list(linears)
        self.layer_norms = self.trains_base = layer_norms

    def attach(self, model: nn.Module) -> None:
        for layer in require_linears(model, self.linears, "method.linears").values():
            _train_bias(layer)
        if self.layer_norms:
            train_layer_norms(model)


def _train_bias(layer: Any) -> None:
    if layer.bias is not None:
        layer.bias.requires_grad_(True)
        return
    zeros = torch.zeros(features(layer)[1], dtype=torch.float32, device=layer.weight.device)
    layer.added_bias = nn.Parameter(zeros)
    swap_class(layer, Biased)
