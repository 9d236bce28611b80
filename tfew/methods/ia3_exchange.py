"""Import and export of (IA)³ in the formats of HF peft and of the authors' code.

HF peft has the vector of a gated feed-forward on the second matrix, where it scales the input (its defaults for T5
are k, v, wo). On fused layers it scales queries, too: `to_peft` writes ones there, `from_peft` reads both places. Its
defaults for some architectures are other layers (queries and values); from such a file, the layers that it names are
used. The authors' code scales outputs of whole layers only.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tfew.errors import UserError, shorten_list
from tfew.methods.base import Method, check_fit
from tfew.methods.peft_format import PREFIX, PeftAdapter, common_config, is_transposed, target_names
from tfew.placement.places import FEED_FORWARD, LINEAR, Place, features

PEFT_KEY = "ia3_l"
OFFICIAL_KEY = "multi_lora_b"


class IA3Exchange(Method):
    """Import and export methods of `IA3`."""

    peft_types: ClassVar[tuple[str, ...]] = ("IA3",)

    @abstractmethod
    def places(self, model: nn.Module) -> list[Place]:
        """The places of the vectors."""

    def to_peft(self, model: nn.Module) -> PeftAdapter:
        slots = _peft_slots(model, self.places(model))
        layer: Any
        tensors = {}
        for name, (module, shape) in slots.items():
            layer = model.get_submodule(name)
            tensors[_peft_key(module)] = layer.ia3_vector().detach().reshape(shape)
        inputs = [module for module, shape in slots.values() if shape[0] == 1]
        outputs = [module for module, shape in slots.values() if shape[0] != 1]
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
        """Uses (IA)³'s own places if the file has them all, else the layers that the file names."""
        vectors = {_layer_of(key): tensor for key, tensor in adapter.tensors.items()}
        _check_layers(model, vectors)
        own = cls(**arguments)._from_own_places(model, vectors, fused_queries)
        if own is not None:
            return dict(arguments), own
        scales = {name: "inputs" if vector.shape[0] == 1 else "outputs" for name, vector in vectors.items()}
        targets = {
            side: target_names(model, [name for name, what in scales.items() if what == side])
            for side in sorted(set(scales.values()))
        }
        return {"targets": targets, "partial": False}, {
            f"{name}.ia3": vector.flatten().float() for name, vector in vectors.items()
        }

    def _from_own_places(
        self, model: nn.Module, vectors: Mapping[str, Tensor], fused_queries: str
    ) -> dict[str, Tensor] | None:
        """None if the file's vectors do not match this placement."""
        try:
            places = self.places(model)
            slots = _peft_slots(model, places)
        except UserError:  # this model has no such placement, or peft has no form for it
            return None
        moved = dict(vectors)
        # a gate's vector may be on either of the two matrices, or on both
        for name, (module, (_, width)) in slots.items():
            if module != name and name in moved and moved[name].shape == (width, 1):
                other = moved.get(module, torch.ones(1, width))
                if other.shape == (1, width):
                    moved[module] = moved.pop(name).T.float() * other.float()
        if {name: tuple(vector.shape) for name, vector in moved.items()} != dict(slots.values()):
            return None
        found = {}
        for place in places:
            vector = moved[slots[place.module][0]].flatten().float()
            if place.scales == "some outputs":
                positions = place.positions(len(vector))
                if (vector.index_fill(0, positions, 1.0) != 1).any():
                    if fused_queries == "keep":
                        return None
                    raise UserError(
                        f"This adapter scales queries, too ({place.module}), which (IA)³ does not;"
                        " fused_queries=keep accepts it unchanged."
                    )
                vector = vector[positions]
            found[f"{place.module}.ia3"] = vector
        return found

    def to_official(self, model: nn.Module) -> dict[str, Tensor]:
        """`[d, 1]` under "NAME.multi_lora_b"; the authors' code scales outputs of whole layers only."""
        places = self.places(model)
        if other := [place.module for place in places if place.scales != "outputs"]:
            raise UserError(
                f"The authors' files support vectors on whole outputs only (k, v, wi_1 of a gated T5);"
                f" {type(model).__name__} has others ({shorten_list(other, 2)}): use to=peft or to=merged."
            )
        layers: dict[str, Any] = {place.module: model.get_submodule(place.module) for place in places}
        return {f"{name}.{OFFICIAL_KEY}": layer.ia3.detach()[:, None] for name, layer in layers.items()}

    def from_official(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        check_fit(self.to_official(model), tensors)
        return {f"{key.removesuffix(OFFICIAL_KEY)}ia3": tensor[:, 0] for key, tensor in tensors.items()}


def _peft_slots(model: nn.Module, places: Sequence[Place]) -> dict[str, tuple[str, tuple[int, int]]]:
    """For each layer with a vector, the layer that has it in peft and its shape there: `[1, in]` or `[out, 1]`.

    Raises UserError if a vector is on a module for which peft has no (IA)³.
    """
    slots = {}
    for place in places:
        if place.scales not in ("outputs", "some outputs", "inputs"):
            raise UserError(
                f"HF peft has (IA)³ on linear layers only; here a vector is on {place.module} of {type(model).__name__}"
                f" ({'a norm of ' + place.role if 'heads' in place.scales else 'experts'}). What peft can hold is"
                " trained with method.targets=, for instance '{outputs: [k_proj, v_proj], inputs: [down_proj]}'."
            )
        inputs, outputs = features(model.get_submodule(place.module))
        slots[place.module] = (place.module, (1, inputs) if place.scales == "inputs" else (outputs, 1))
        if place.role == FEED_FORWARD and place.scales == "outputs" and (second := _second_matrix(model, place.module)):
            slots[place.module] = (second, (1, outputs))
    return slots


def _check_layers(model: nn.Module, vectors: Mapping[str, Tensor]) -> None:
    """Raises UserError if a vector fits no linear layer of its name."""
    layers = {name: features(module) for name, module in model.named_modules() if isinstance(module, LINEAR)}
    fits = {f"{name} {list(shape)}" for name, (i, o) in layers.items() for shape in ((1, i), (o, 1))}
    if wrong := {f"{name} {list(vector.shape)}" for name, vector in vectors.items()} - fits:
        near = {f"{name} {[1, layers[name][0]]} or {[layers[name][1], 1]}" for name in vectors if name in layers}
        raise UserError(
            f"The adapter does not fit this model and method. Only in the file: {shorten_list(wrong, 6)};"
            f" only in the model: {shorten_list(near or layers, 6)}."
        )


def _second_matrix(model: nn.Module, branch: str) -> str | None:
    """The matrix whose input is gate times linear branch: the last of their sibling layers that it fits."""
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


def _layer_of(key: str) -> str:
    return key.removeprefix(PREFIX).removesuffix(f".{PEFT_KEY}")
