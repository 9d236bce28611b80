"""(IA)³: learned vectors rescale keys, values and the inner activations of the feed-forward (paper section 3.3).

In a gated feed-forward, scaling the output of the linear branch (`wi_1`) equals scaling the activation that enters
the second matrix; that is where the official code puts the vector (`configs/ia3.json`). In a feed-forward without
a gate it does not, so there the vector scales the input of the second matrix. Where one matrix makes queries, keys
and values (GPT-2, GPT-NeoX), the vector scales its keys and values and leaves the queries alone.
Vectors start at one (the model is unchanged) and stay float32 whatever the base is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tfew.errors import unknown
from tfew.methods.base import Method
from tfew.methods.surgery import features, find_linears, graft, no_match, sibling_names

FUSED_LAYOUTS = ("thirds", "per_head")


class OutputScaled(nn.Module):
    """Multiplies a linear layer's output (bias included) by the vector `ia3` `[outputs]`."""

    ia3: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        return (output * self.ia3_vector()).to(output.dtype)

    def ia3_vector(self) -> Tensor:
        """The factor of every output `[outputs]`."""
        return self.ia3


class PartlyOutputScaled(OutputScaled):
    """`ia3` `[k and v outputs]` scales some outputs, at `ia3_positions`; the others keep the factor one."""

    ia3_positions: Tensor

    def ia3_vector(self) -> Tensor:
        ones = torch.ones(features(self)[1], dtype=self.ia3.dtype, device=self.ia3.device)
        return ones.index_put((self.ia3_positions,), self.ia3)


class InputScaled(nn.Module):
    """Multiplies what enters a linear layer by the vector `ia3` `[inputs]`."""

    ia3: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        return super().forward((input * self.ia3).to(input.dtype))


class IA3(Method):
    """Names are last name parts of linear layers; the defaults are in `configs/method/ia3.yaml`.

    A layer of `feed_forward_second` counts only beside one of `feed_forward_first` (GPT-2 has two kinds of
    `c_proj`). `fused_keys_values` maps a name to its layout: queries, keys and values in "thirds", or "per_head".
    """

    def __init__(
        self,
        keys_values: Sequence[str],
        fused_keys_values: Mapping[str, str],
        feed_forward_linear_branch: Sequence[str],
        feed_forward_first: Sequence[str],
        feed_forward_second: Sequence[str],
    ) -> None:
        for name, layout in fused_keys_values.items():
            if layout not in FUSED_LAYOUTS:
                raise unknown("layout", layout, FUSED_LAYOUTS, f"method.fused_keys_values.{name}=")
        self.keys_values = list(keys_values)
        self.fused = dict(fused_keys_values)
        self.linear_branch = list(feed_forward_linear_branch)
        self.first, self.second = list(feed_forward_first), list(feed_forward_second)

    def attach(self, model: nn.Module) -> None:
        keys_values = find_linears(model, self.keys_values)
        fused = find_linears(model, self.fused)
        branches = find_linears(model, self.linear_branch)
        second = [n for n in find_linears(model, self.second) if sibling_names(model, n) & set(self.first)]
        if not keys_values + fused:
            raise no_match(model, [*self.keys_values, *self.fused], "method.keys_values")
        if not branches + second:
            raise no_match(model, self.linear_branch + self.second, "method.feed_forward_second")
        layer: Any
        for layer in map(model.get_submodule, keys_values + branches):
            _add_vector(layer, OutputScaled, features(layer)[1])
        for layer in map(model.get_submodule, second):
            _add_vector(layer, InputScaled, features(layer)[0])
        for name in fused:
            layer = model.get_submodule(name)
            positions = _keys_and_values(model, features(layer)[1], self.fused[name.rpartition(".")[2]])
            _add_vector(layer, PartlyOutputScaled, len(positions))
            layer.register_buffer("ia3_positions", positions.to(layer.ia3.device), persistent=False)


def _add_vector(layer: Any, mixin: type[nn.Module], size: int) -> None:
    layer.ia3 = nn.Parameter(torch.ones(size, dtype=torch.float32, device=layer.weight.device))
    graft(layer, mixin)


def _keys_and_values(model: nn.Module, outputs: int, layout: str) -> Tensor:
    """Positions of keys and values among the outputs of a fused layer."""
    position = torch.arange(outputs)
    config: Any = model.config
    heads = config.num_attention_heads if layout == "per_head" else 1
    return position[position // (outputs // (3 * heads)) % 3 != 0]
