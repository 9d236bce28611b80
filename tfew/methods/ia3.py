"""(IA)³: learned vectors rescale keys, values and the inner activations of the feed-forward (paper section 3.3).

In a gated feed-forward, scaling the output of the linear branch (`wi_1`) equals scaling the activation that enters
the second matrix; that is where the official code puts the vector (`configs/ia3.json`). In a feed-forward without
a gate it does not, so there the vector scales the input of the second matrix. Where one matrix makes queries, keys
and values (GPT-2, GPT-NeoX), the vector scales its keys and values and leaves the queries alone.
Vectors start at one (the model is unchanged) and stay float32 whatever the base is.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from tfew.errors import unknown_value_error
from tfew.methods.ia3_exchange import IA3Exchange
from tfew.methods.merging import restore_class, scale_inputs, scale_outputs
from tfew.methods.surgery import features, find_linears, no_match, sibling_names, swap_class
from tfew.methods.task_bank import Scaler, Scaling

FUSED_LAYOUTS = ("thirds", "per_head")


class OutputScaled(nn.Module):
    """Multiplies a linear layer's output (bias included) by the vector `ia3` `[outputs]`."""

    scales = "outputs"
    ia3: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        return (output * self.ia3_vector()).to(output.dtype)

    def ia3_vector(self) -> Tensor:
        """The factor of every output `[outputs]`."""
        return self.ia3

    def merge_ia3(self) -> None:
        scale_outputs(self, self.ia3_vector())
        restore_class(self, "ia3")


class PartlyOutputScaled(OutputScaled):
    """`ia3` `[k and v outputs]` scales some outputs, at `ia3_positions`; the others keep the factor one."""

    scales = "some outputs"
    ia3_positions: Tensor

    def ia3_vector(self) -> Tensor:
        return _with_ones(self.ia3, self.ia3_positions, features(self)[1])

    def merge_ia3(self) -> None:
        scale_outputs(self, self.ia3_vector())
        restore_class(self, "ia3", "ia3_positions")


class InputScaled(nn.Module):
    """Multiplies what enters a linear layer by the vector `ia3` `[inputs]`."""

    scales = "inputs"
    ia3: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        return super().forward((input * self.ia3).to(input.dtype))

    def ia3_vector(self) -> Tensor:
        """The factor of every input `[inputs]`."""
        return self.ia3

    def merge_ia3(self) -> None:
        scale_inputs(self, self.ia3)
        restore_class(self, "ia3")


class IA3(IA3Exchange):
    """Names are last name parts of linear layers; the defaults are in `configs/method/ia3.yaml`.

    A layer of `feed_forward_second` counts only beside one of `feed_forward_first` (GPT-2 has two kinds of
    `c_proj`). `fused_keys_values` maps a name to its layout: queries, keys and values in "thirds", or "per_head".
    """

    def __init__(
        self,
        keys_values: Sequence[str] = ("k", "v", "k_proj", "v_proj"),
        fused_keys_values: Mapping[str, str] = MappingProxyType({"c_attn": "thirds", "query_key_value": "per_head"}),
        feed_forward_linear_branch: Sequence[str] = ("wi_1", "up_proj"),
        feed_forward_first: Sequence[str] = ("wi", "fc1", "c_fc", "dense_h_to_4h"),
        feed_forward_second: Sequence[str] = ("wo", "fc2", "c_proj", "dense_4h_to_h"),
    ) -> None:
        for name, layout in fused_keys_values.items():
            if layout not in FUSED_LAYOUTS:
                raise unknown_value_error("layout", layout, FUSED_LAYOUTS, f"method.fused_keys_values.{name}=")
        self.keys_values = list(keys_values)
        self.fused = dict(fused_keys_values)
        self.linear_branch = list(feed_forward_linear_branch)
        self.first, self.second = list(feed_forward_first), list(feed_forward_second)

    def attach(self, model: nn.Module) -> None:
        layer: Any
        neutral = self.neutral(model)
        for name, kind in self.places(model).items():
            layer = model.get_submodule(name)
            layer.ia3 = nn.Parameter(neutral[f"{name}.ia3"])
            swap_class(layer, kind)
            if kind is PartlyOutputScaled:
                positions = self.keys_and_values(model, name)
                layer.register_buffer("ia3_positions", positions.to(layer.ia3.device), persistent=False)

    def neutral(self, model: nn.Module) -> dict[str, Tensor]:
        vectors = {}
        for name, kind in self.places(model).items():
            layer: Any = model.get_submodule(name)
            inputs, outputs = features(layer)
            size = {InputScaled: inputs, OutputScaled: outputs}.get(kind) or len(self.keys_and_values(model, name))
            vectors[f"{name}.ia3"] = torch.ones(size, dtype=torch.float32, device=layer.weight.device)
        return vectors

    def scaler(self, model: nn.Module) -> Scaler:
        places = self.places(model)
        partly = {
            name: self.keys_and_values(model, name) for name, kind in places.items() if kind is PartlyOutputScaled
        }
        outputs = {name: features(model.get_submodule(name))[1] for name in partly}

        def scaling(name: str, vector: Tensor) -> Scaling:
            if places[name] is InputScaled:
                return Scaling(inputs=vector)
            return Scaling(outputs=_with_ones(vector, partly[name], outputs[name]) if name in partly else vector)

        return lambda weights: {name: scaling(name, weights[f"{name}.ia3"]) for name in places}

    def merge(self, model: nn.Module) -> None:
        layer: Any
        for name in self.places(model):
            layer = model.get_submodule(name)
            layer.merge_ia3()

    def places(self, model: nn.Module) -> dict[str, Any]:
        """What each layer with a vector becomes, by the layer's name."""
        keys_values = find_linears(model, self.keys_values)
        fused = find_linears(model, self.fused)
        branches = find_linears(model, self.linear_branch)
        second = [n for n in find_linears(model, self.second) if sibling_names(model, n) & set(self.first)]
        if not keys_values + fused:
            raise no_match(model, [*self.keys_values, *self.fused], "method.keys_values")
        if not branches + second:
            raise no_match(model, self.linear_branch + self.second, "method.feed_forward_second")
        whole = dict.fromkeys(keys_values + branches, OutputScaled)
        return {**whole, **dict.fromkeys(second, InputScaled), **dict.fromkeys(fused, PartlyOutputScaled)}

    def keys_and_values(self, model: nn.Module, name: str) -> Tensor:
        """Positions of keys and values among the outputs of a fused layer."""
        outputs = features(model.get_submodule(name))[1]
        config: Any = model.config
        heads = config.num_attention_heads if self.fused[name.rpartition(".")[2]] == "per_head" else 1
        position = torch.arange(outputs)
        return position[position // (outputs // (3 * heads)) % 3 != 0]


def _with_ones(vector: Tensor, positions: Tensor, size: int) -> Tensor:
    """The vector at these positions of `[size]`, and ones elsewhere."""
    ones = torch.ones(size, dtype=vector.dtype, device=vector.device)
    return ones.index_put((positions.to(vector.device),), vector)
