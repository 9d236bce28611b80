"""Rank-one scaling of each matrix: inputs and outputs of a linear layer are multiplied by learned vectors.

The predecessor of (IA)³ in the official code (configs/lora_scaling.json); the paper does not report it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tfew.methods.base import Method
from tfew.methods.merging import restore_class, scale_inputs, scale_outputs
from tfew.methods.surgery import swap_class
from tfew.methods.task_bank import Scaler, Scaling
from tfew.placement.places import features
from tfew.placement.report import MatrixChoice, Placement


class BothScaled(nn.Module):
    """Linear layer with its input multiplied by `scale_in` `[inputs]` and its output by `scale_out` `[outputs]`."""

    scale_in: nn.Parameter
    scale_out: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward((input * self.scale_in).to(input.dtype))
        return (output * self.scale_out).to(output.dtype)


class LoRAScaling(Method):
    """On every matrix of attention and feed-forward; arguments as in `LoRA`. Vectors start at one."""

    def __init__(
        self, targets: Sequence[str] | None = None, partial: bool = False, layers: Sequence[str] | None = None
    ) -> None:
        self.choice = MatrixChoice(targets, partial, layers)

    def placement(self, model: nn.Module) -> Placement:
        return self.choice.placement(model)

    def attach(self, model: nn.Module) -> None:
        neutral = self.neutral(model)
        for name, layer in self.choice.linears(model).items():
            layer.scale_in = nn.Parameter(neutral[f"{name}.scale_in"])
            layer.scale_out = nn.Parameter(neutral[f"{name}.scale_out"])
            swap_class(layer, BothScaled)

    def neutral(self, model: nn.Module) -> dict[str, Tensor]:
        vectors = {}
        for name, layer in self.choice.linears(model).items():
            for side, size in zip(("scale_in", "scale_out"), features(layer), strict=True):
                vectors[f"{name}.{side}"] = torch.ones(size, dtype=torch.float32, device=layer.weight.device)
        return vectors

    def scaler(self, model: nn.Module) -> Scaler:
        names = list(self.choice.linears(model))
        return lambda weights: {n: Scaling(weights[f"{n}.scale_in"], weights[f"{n}.scale_out"]) for n in names}

    def merge(self, model: nn.Module) -> None:
        for layer in self.choice.linears(model).values():
            scale_inputs(layer, layer.scale_in)
            scale_outputs(layer, layer.scale_out)
            restore_class(layer, "scale_in", "scale_out")
