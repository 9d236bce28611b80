"""BitFit (Zaken et al. 2021, arXiv 2106.10199): only biases are trained, and here the layer norms, too.

T5 has no biases, so each selected linear layer gets a zero bias (the model is unchanged), in float32 whatever the
base's dtype. The official code (`configs/bitfit.json`) selects by the pattern "q|k|v|o|wi_[01]|w_o"; the
feed-forward's second matrix is called `wo`, so it never gets a bias there. If a layer already has a bias, that bias is
unfrozen, in its own dtype.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tfew.methods.base import Method
from tfew.methods.surgery import swap_class, train_layer_norms
from tfew.placement.places import features
from tfew.placement.report import MatrixChoice, Placement


class Biased(nn.Module):
    """Adds `added_bias` `[outputs]` to a linear layer's output; `bias` itself would have to have the weight's dtype."""

    added_bias: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        return (output + self.added_bias).to(output.dtype)


class BitFit(Method):
    """On all matrices of attention and the first ones of the feed-forward; `targets` and `partial` as in `LoRA`.

    `linears`, last name parts, is the argument of adapters saved before version 0.3.
    """

    trains_base = True  # a model's own biases
    merges = False  # T5's layers have no biases to fold these into

    def __init__(
        self,
        layer_norms: bool,
        targets: Sequence[str] | None = None,
        partial: bool = False,
        linears: Sequence[str] | None = None,
    ) -> None:
        self.choice = MatrixChoice(targets, partial, linears, second=False)
        self.layer_norms = layer_norms

    def placement(self, model: nn.Module) -> Placement:
        return self.choice.placement(model)

    def attach(self, model: nn.Module) -> None:
        for layer in self.choice.linears(model).values():
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
