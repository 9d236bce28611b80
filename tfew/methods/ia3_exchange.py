"""(IA)³ in HF peft's files and in those of the authors' code.

HF peft has the vector of a gated feed-forward on the second matrix, where it scales the input (its defaults for T5
are k, v, wo), and on fused layers scales queries, too: `to_peft` writes ones there, `from_peft` knows both places.
The authors' code scales outputs of whole layers and nothing else.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tfew.errors import UserError, shorten_list
from tfew.methods.base import Method, check_fit
from tfew.methods.peft_format import PREFIX, PeftAdapter, common_config, is_transposed, target_names
from tfew.methods.surgery import LINEAR, features

PEFT_KEY = "ia3_l"
OFFICIAL_KEY = "multi_lora_b"


class IA3Exchange(Method):
    """What `IA3` needs to leave this project and to come back."""

    keys_values: list[str]
    fused: dict[str, str]
    linear_branch: list[str]
    peft_types: ClassVar[tuple[str, ...]] = ("IA3",)

    @abstractmethod
    def places(self, model: nn.Module) -> dict[str, Any]:
        """What each layer with a vector becomes, by the layer's name; its `scales` says what the vector scales."""

    @abstractmethod
    def keys_and_values(self, model: nn.Module, name: str) -> Tensor:
        """Positions of keys and values among the outputs of a fused layer."""

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
        fused = [name for name, kind in method.places(model).items() if kind.scales == "some outputs"]
        if scaled := [name for name in fused if method._scales_queries(model, name, vectors[name])]:
            if fused_queries == "refuse":
                raise UserError(
                    f"This adapter scales queries, too ({shorten_list(scaled, 2)}), which (IA)³ leaves alone;"
                    " fused_queries=keep takes it as it is."
                )
            # then a fused layer is one whose whole output is scaled, as keys and values are elsewhere
            arguments |= {"keys_values": [*method.keys_values, *method.fused], "fused_keys_values": {}}
        else:
            vectors |= {name: vectors[name][method.keys_and_values(model, name)] for name in fused}
        return arguments, {f"{name}.ia3": vector for name, vector in vectors.items()}

    def to_official(self, model: nn.Module) -> dict[str, Tensor]:
        """`[d, 1]` under "NAME.multi_lora_b"; the authors' code scales outputs of whole layers and nothing else."""
        places = self.places(model)
        if other := [name for name, kind in places.items() if kind.scales != "outputs"]:
            raise UserError(
                f"The authors' files know vectors on whole outputs only (k, v, wi_1 of a gated T5);"
                f" {type(model).__name__} has others ({shorten_list(other, 2)}): use to=peft or to=merged."
            )
        layers: dict[str, Any] = {name: model.get_submodule(name) for name in places}
        return {f"{name}.{OFFICIAL_KEY}": layer.ia3.detach()[:, None] for name, layer in layers.items()}

    def from_official(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        check_fit(self.to_official(model), tensors)
        return {f"{key.removesuffix(OFFICIAL_KEY)}ia3": tensor[:, 0] for key, tensor in tensors.items()}

    def _peft_slots(self, model: nn.Module) -> dict[str, tuple[str, tuple[int, int]]]:
        """For each layer with a vector the layer that has it in peft and its shape there: `[1, in]` or `[out, 1]`."""
        slots = {}
        for name, kind in self.places(model).items():
            inputs, outputs = features(model.get_submodule(name))
            slots[name] = (name, (1, inputs) if kind.scales == "inputs" else (outputs, 1))
            if name.rpartition(".")[2] in self.linear_branch and (second := _second_matrix(model, name)):
                slots[name] = (second, (1, outputs))
        return slots

    def _scales_queries(self, model: nn.Module, name: str, vector: Tensor) -> bool:
        return bool((vector.index_fill(0, self.keys_and_values(model, name), 1.0) != 1).any())


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
