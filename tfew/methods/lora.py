"""LoRA: every chosen W becomes W + BA / rank (Hu et al. 2021; official configs/lora.json); layer norms train too.

A starts as N(0, init_scale²), B as zero, so the model is unchanged at first. The product is computed in float32 beside
the frozen matrix, which is the same map as adding it to the weight. The paper divides by nothing; the official code
divides by the rank. HF peft has LoRA, but starts A differently and wraps layers, so it is used for exchange only.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from tfew.methods.base import Method
from tfew.methods.surgery import features, find_linears, graft, no_match, train_layer_norms


class LowRank(nn.Module):
    """Adds x Aᵀ Bᵀ / rank to a linear layer's output; `lora_a` `[rank, inputs]`, `lora_b` `[outputs, rank]`."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        update = linear(linear(input.to(self.lora_a.dtype), self.lora_a), self.lora_b) / len(self.lora_a)
        return output + update.to(output.dtype)

    def lora_update(self) -> Tensor:
        """What is added to the weight `[outputs, inputs]`."""
        return self.lora_b @ self.lora_a / len(self.lora_a)


class LoRA(Method):
    """`layers` are last name parts of linear layers."""

    def __init__(self, rank: int, init_scale: float, layers: Sequence[str], layer_norms: bool) -> None:
        self.rank, self.init_scale, self.layers, self.layer_norms = rank, init_scale, list(layers), layer_norms

    def attach(self, model: nn.Module) -> None:
        names = find_linears(model, self.layers)
        if not names:
            raise no_match(model, self.layers, "method.layers")
        layer: Any
        for layer in map(model.get_submodule, names):
            inputs, outputs = features(layer)
            options: dict[str, Any] = {"dtype": torch.float32, "device": layer.weight.device}
            layer.lora_a = nn.Parameter(self.init_scale * torch.randn(self.rank, inputs, **options))
            layer.lora_b = nn.Parameter(torch.zeros(outputs, self.rank, **options))
            graft(layer, LowRank)
        if self.layer_norms:
            train_layer_norms(model)
