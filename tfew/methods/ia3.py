"""(IA)³: learned vectors rescale keys, values and the inner activations of the feed-forward (paper section 3.3).

In a gated feed-forward, scaling the output of the linear branch (`wi_1`) equals scaling the activation that enters
the second matrix; that is where the official code puts the vector (`configs/ia3.json`). In a feed-forward without
a gate it does not, so there the vector scales the input of the second matrix. Where one matrix makes queries, keys
and values (GPT-2, GPT-NeoX), the vector scales its keys and values and leaves the queries alone.
HF peft has the vector of a gated feed-forward on the second matrix, where it scales the input (its defaults for T5
are k, v, wo), and on fused layers scales queries, too: `to_peft` writes ones there, `from_peft` knows both places.
Vectors start at one (the model is unchanged) and stay float32 whatever the base is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tfew.errors import UserError, shorten_list, unknown_value_error
from tfew.methods.base import Method, check_fit
from tfew.methods.merging import restore_class, scale_inputs, scale_outputs
from tfew.methods.peft_format import PREFIX, PeftAdapter, common_config, is_transposed, target_names
from tfew.methods.surgery import LINEAR, features, find_linears, no_match, sibling_names, swap_class
from tfew.methods.task_bank import Scaler, Scaling

FUSED_LAYOUTS = ("thirds", "per_head")
PEFT_KEY = "ia3_l"
OFFICIAL_KEY = "multi_lora_b"


class OutputScaled(nn.Module):
    """Multiplies a linear layer's output (bias included) by the vector `ia3` `[outputs]`."""

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

    ia3_positions: Tensor

    def ia3_vector(self) -> Tensor:
        return _with_ones(self.ia3, self.ia3_positions, features(self)[1])

    def merge_ia3(self) -> None:
        scale_outputs(self, self.ia3_vector())
        restore_class(self, "ia3", "ia3_positions")


class InputScaled(nn.Module):
    """Multiplies what enters a linear layer by the vector `ia3` `[inputs]`."""

    ia3: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        return super().forward((input * self.ia3).to(input.dtype))

    def ia3_vector(self) -> Tensor:
        """The factor of every input `[inputs]`."""
        return self.ia3

    def merge_ia3(self) -> None:
        scale_inputs(self, self.ia3)
        restore_class(self, "ia3")


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
                raise unknown_value_error("layout", layout, FUSED_LAYOUTS, f"method.fused_keys_values.{name}=")
        self.keys_values = list(keys_values)
        self.fused = dict(fused_keys_values)
        self.linear_branch = list(feed_forward_linear_branch)
        self.first, self.second = list(feed_forward_first), list(feed_forward_second)

    peft_types = ("IA3",)

    def attach(self, model: nn.Module) -> None:
        layer: Any
        neutral = self.neutral(model)
        for name, kind in self._places(model).items():
            layer = model.get_submodule(name)
            layer.ia3 = nn.Parameter(neutral[f"{name}.ia3"])
            swap_class(layer, kind)
            if kind is PartlyOutputScaled:
                positions = self._keys_and_values(model, name)
                layer.register_buffer("ia3_positions", positions.to(layer.ia3.device), persistent=False)

    def neutral(self, model: nn.Module) -> dict[str, Tensor]:
        vectors = {}
        for name, kind in self._places(model).items():
            layer: Any = model.get_submodule(name)
            inputs, outputs = features(layer)
            size = {InputScaled: inputs, OutputScaled: outputs}.get(kind) or len(self._keys_and_values(model, name))
            vectors[f"{name}.ia3"] = torch.ones(size, dtype=torch.float32, device=layer.weight.device)
        return vectors

    def scaler(self, model: nn.Module) -> Scaler:
        places = self._places(model)
        partly = {
            name: self._keys_and_values(model, name) for name, kind in places.items() if kind is PartlyOutputScaled
        }
        outputs = {name: features(model.get_submodule(name))[1] for name in partly}

        def scaling(name: str, vector: Tensor) -> Scaling:
            if places[name] is InputScaled:
                return Scaling(inputs=vector)
            return Scaling(outputs=_with_ones(vector, partly[name], outputs[name]) if name in partly else vector)

        return lambda weights: {name: scaling(name, weights[f"{name}.ia3"]) for name in places}

    def merge(self, model: nn.Module) -> None:
        layer: Any
        for name in self._places(model):
            layer = model.get_submodule(name)
            layer.merge_ia3()

    def to_peft(self, model: nn.Module) -> PeftAdapter:
        slots = self._peft_slots(model)
        layer: Any
        tensors = {}
        for name, (place, shape) in slots.items():
            layer = model.get_submodule(name)
            tensors[_peft_key(place)] = layer.ia3_vector().detach().reshape(shape)
        inputs = [place for place, shape in slots.values() if shape[0] == 1]
        outputs = [place for place, shape in slots.values() if shape[0] != 1]
        config = common_config(self.peft_types[0], model) | {
            "target_modules": target_names(model, outputs) + target_names(model, inputs, dotted=False),
            "feedforward_modules": target_names(model, inputs, dotted=False),
            "fan_in_fan_out": is_transposed(model, outputs),
            "modules_to_save": None,
            "init_ia3_weights": True,
        }
        return PeftAdapter(config, tensors)

    @classmethod
    def from_peft(
        cls, arguments: Mapping[str, Any], adapter: PeftAdapter, model: nn.Module, fused_queries: str
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        method = cls(**arguments)
        slots = method._peft_slots(model)
        tensors = dict(adapter.tensors)
        for name, (place, (_, width)) in slots.items():  # a gate's vector may be on either of the two matrices
            vector = tensors.get(_peft_key(name))
            if place != name and vector is not None and vector.shape == (width, 1):
                tensors[_peft_key(place)] = tensors.pop(_peft_key(name)).T
        expected = {_peft_key(place): torch.empty(shape, device="meta") for place, shape in slots.values()}
        check_fit(expected, tensors)
        vectors = {name: tensors[_peft_key(place)].flatten().float() for name, (place, _) in slots.items()}
        arguments = dict(arguments)
        fused = [name for name, kind in method._places(model).items() if kind is PartlyOutputScaled]
        if scaled := [name for name in fused if method._scales_queries(model, name, vectors[name])]:
            if fused_queries == "refuse":
                raise UserError(
                    f"This adapter scales queries, too ({shorten_list(scaled, 2)}), which (IA)³ leaves alone;"
                    " fused_queries=keep takes it as it is."
                )
            # then a fused layer is one whose whole output is scaled, as keys and values are elsewhere
            arguments |= {"keys_values": [*method.keys_values, *method.fused], "fused_keys_values": {}}
        else:
            vectors |= {name: vectors[name][method._keys_and_values(model, name)] for name in fused}
        return arguments, {f"{name}.ia3": vector for name, vector in vectors.items()}

    def to_official(self, model: nn.Module) -> dict[str, Tensor]:
        """`[d, 1]` under "NAME.multi_lora_b"; the authors' code scales outputs of whole layers and nothing else."""
        places = self._places(model)
        if other := [name for name, kind in places.items() if kind is not OutputScaled]:
            raise UserError(
                f"The authors' files know vectors on whole outputs only (k, v, wi_1 of a gated T5);"
                f" {type(model).__name__} has others ({shorten_list(other, 2)}): use to=peft or to=merged."
            )
        layers: dict[str, Any] = {name: model.get_submodule(name) for name in places}
        return {f"{name}.{OFFICIAL_KEY}": layer.ia3.detach()[:, None] for name, layer in layers.items()}

    def from_official(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        check_fit(self.to_official(model), tensors)
        return {f"{key.removesuffix(OFFICIAL_KEY)}ia3": tensor[:, 0] for key, tensor in tensors.items()}

    def _places(self, model: nn.Module) -> dict[str, Any]:
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

    def _peft_slots(self, model: nn.Module) -> dict[str, tuple[str, tuple[int, int]]]:
        """For each layer with a vector the layer that has it in peft and its shape there: `[1, in]` or `[out, 1]`."""
        slots = {}
        for name, kind in self._places(model).items():
            inputs, outputs = features(model.get_submodule(name))
            slots[name] = (name, (1, inputs) if kind is InputScaled else (outputs, 1))
            if name.rpartition(".")[2] in self.linear_branch and (second := _second_matrix(model, name)):
                slots[name] = (second, (1, outputs))
        return slots

    def _keys_and_values(self, model: nn.Module, name: str) -> Tensor:
        """Positions of keys and values among the outputs of a fused layer."""
        outputs = features(model.get_submodule(name))[1]
        config: Any = model.config
        heads = config.num_attention_heads if self.fused[name.rpartition(".")[2]] == "per_head" else 1
        position = torch.arange(outputs)
        return position[position // (outputs // (3 * heads)) % 3 != 0]

    def _scales_queries(self, model: nn.Module, name: str, vector: Tensor) -> bool:
        return bool((vector.index_fill(0, self._keys_and_values(model, name), 1.0) != 1).any())


def _with_ones(vector: Tensor, positions: Tensor, size: int) -> Tensor:
    """The vector at these positions of `[size]`, and ones elsewhere."""
    ones = torch.ones(size, dtype=vector.dtype, device=vector.device)
    return ones.index_put((positions.to(vector.device),), vector)


def _second_matrix(model: nn.Module, branch: str) -> str | None:
    """The matrix that the product of gate and linear branch enters: the last one beside them that it fits into."""
    parent = branch.rpartition(".")[0]
    width = features(model.get_submodule(branch))[1]
    fits = [
        name
        for name, module in model.get_submodule(parent).named_children()
        if isinstance(module, LINEAR) and features(module)[0] == width
    ]
    return f"{parent}.{fits[-1]}" if fits else None


def _peft_key(layer: str) -> str:
    return f"{PREFIX}{layer}.{PEFT_KEY}"
