"""Scaling of every matrix by a rank-one pattern: inputs and outputs of each linear layer times a learned vector.

The ancestor of (IA)³ in the official code (configs/lora_scaling.json); the paper does not report it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tfew.methods.base import Method
from tfew.methods.merging import restore_class, scale_inputs, scale_outputs
from tfew.methods.surgery import features, require_linears, swap_class
from tfew.methods.task_bank import Scaler, Scaling


class BothScaled(nn.Module):
    """Linear layer whose input is multiplied by `scale_in` `[inputs]` and its output by `scale_out` `[outputs]`."""

    scale_in: nn.Parameter
    scale_out: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward((input * self.scale_in).to(input.dtype))
        return (output * self.scale_out).to(output.dtype)


class LoRAScaling(Method):
    """`layers` are last name parts of linear layers; vectors start at one."""

    def __init__(self, layers: Sequence[str]) -> None:
        self.layers = list(layers)

    def attach(self, model: nn.Module) -> None:
        neutral = self.neutral(model)
        for name, layer in require_linears(model, self.layers, "method.layers").items():
            layer.scale_in = nn.Parameter(neutral[f"{name}.scale_in"])
            layer.scale_out = nn.Parameter(neutral[f"{name}.scale_out"])
            swap_class(layer, BothScaled)

    def neutral(self, model: nn.Module) -> dict[str, Tensor]:
        vectors = {}
        for name, layer in require_linears(model, self.layers, "method.layers").items():
            for side, size in zip(("scale_in", "scale_out"), features(layer), strict=True):
                vectors[f"{name}.{side}"] = torch.ones(size, dtype=torch.float32, device=layer.weight.device)
        return vectors

    def scaler(self, model: nn.Module) -> Scaler:
        names = list(require_linears(model, self.layers, "method.layers"))
        return lambda weights: {n: Scaling(weights[f"{n}.scale_in"], weights[f"{n}.scale_out"]) for n in names}

    def merge(self, model: nn.Module) -> None:
        for layer in require_linears(model, self.layers, "method.layers").values():
            scale_inputs(layer, layer.scale_in)
            scale_outputs(layer, layer.scale_out)
            restore_class(layer, "scale_in", "scale_out")
