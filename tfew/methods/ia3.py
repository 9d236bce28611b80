"""(IA)³: learned vectors rescale keys, values and the inner activations of the feed-forward (paper section 3.3).

In a gated feed-forward, scaling the output of the linear branch (`wi_1`) equals scaling the activation that enters
the second matrix; that is where the official code puts the vector (`configs/ia3.json`). In a feed-forward without
a gate it does not, so there the vector scales the input of the second matrix.
Vectors start at one (the model is unchanged) and stay float32 whatever the base is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tfew.methods.base import Method
from tfew.methods.surgery import find_linears, no_match, replace_linear, sibling_names


class OutputScaledLinear(nn.Linear):
    """Linear whose output (bias included) is multiplied by the vector `ia3` `[out_features]`."""

    ia3: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        return (output * self.ia3).to(output.dtype)


class InputScaledLinear(nn.Linear):
    """Linear whose input is multiplied by the vector `ia3` `[in_features]`."""

    ia3: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        return super().forward((input * self.ia3).to(input.dtype))


class IA3(Method):
    """Names are last name parts of Linear layers; the defaults are in `configs/method/ia3.yaml`."""

    def __init__(
        self,
        keys_values: Sequence[str],
        feed_forward_linear_branch: Sequence[str],
        feed_forward_second: Sequence[str],
    ) -> None:
        self.keys_values = list(keys_values)
        self.linear_branch = list(feed_forward_linear_branch)
        self.second = list(feed_forward_second)

    def attach(self, model: nn.Module) -> None:
        keys_values = find_linears(model, self.keys_values)
        gated = find_linears(model, self.linear_branch)
        plain = [
            name
            for name in find_linears(model, self.second)
            if not sibling_names(model, name) & set(self.linear_branch)
        ]
        if not keys_values:
            raise no_match(model, self.keys_values, "method.keys_values")
        if not gated + plain:
            raise no_match(model, self.linear_branch + self.second, "method.feed_forward_second")
        for name in keys_values + gated:
            replace_linear(model, name, lambda old: _with_vector(OutputScaledLinear, old, old.out_features))
        for name in plain:
            replace_linear(model, name, lambda old: _with_vector(InputScaledLinear, old, old.in_features))


def _with_vector(layer: type[OutputScaledLinear] | type[InputScaledLinear], old: nn.Linear, size: int) -> nn.Linear:
    with torch.device("meta"):
        new = layer(old.in_features, old.out_features, bias=old.bias is not None)
    new.weight, new.bias = old.weight, old.bias
    new.ia3 = nn.Parameter(torch.ones(size, dtype=torch.float32, device=old.weight.device))
    return new
