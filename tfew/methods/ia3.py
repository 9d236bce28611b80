"""(IA)³: learned vectors rescale keys, values and the inner activations of the feed-forward (paper section 3.3).

`tfew.placement` finds their places from the model's structure. In a gated feed-forward, scaling the output of the
linear branch (`wi_1`, `up_proj`) equals scaling the activation that enters the second matrix; that is where the
official code puts the vector (`configs/ia3.json`). In any other feed-forward it does not, so there the vector scales
the input of the second matrix. If one matrix computes queries, keys and values, the vector scales its keys and values,
not its queries. If keys are normalised before attention, it scales the norm's output, since the norm would cancel a
common factor. Vectors start at one (the model is unchanged) and stay float32 whatever the base's dtype.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tfew.errors import UserError
from tfew.methods.experts import SCALED
from tfew.methods.ia3_exchange import IA3Exchange
from tfew.methods.merging import restore_class, scale_inputs, scale_outputs
from tfew.methods.surgery import swap_class
from tfew.methods.task_bank import Scaler, Scaling, scale_heads
from tfew.placement.legacy_names import NamedLayers
from tfew.placement.named_layers import matching
from tfew.placement.places import NAMED, Place, features
from tfew.placement.report import Placement, coverage, of_places, whole_layers


class OutputScaled(nn.Module):
    """Multiplies a linear layer's output (bias included) by the vector `ia3` `[outputs]`."""

    ia3: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        return (output * self.ia3_vector()).to(output.dtype)

    def ia3_vector(self) -> Tensor:
        """The factor of each output, `[outputs]`."""
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
    """Multiplies the input of a linear layer by the vector `ia3` `[inputs]`."""

    ia3: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        return super().forward((input * self.ia3).to(input.dtype))

    def ia3_vector(self) -> Tensor:
        """The factor of each input, `[inputs]`."""
        return self.ia3

    def merge_ia3(self) -> None:
        scale_inputs(self, self.ia3)
        restore_class(self, "ia3")


class HeadsScaled(nn.Module):
    """Multiplies the output of a norm of keys or values by the vector `ia3` `[heads * D]`.

    If queries pass through the same norm, outputs with a different number of heads than keys are not scaled.
    """

    ia3: nn.Parameter
    ia3_heads_first: bool
    ia3_shared: bool

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        output: Tensor = super().forward(*args, **kwargs)
        heads = output.shape[1 if self.ia3_heads_first else -2]
        if self.ia3_shared and heads * output.shape[-1] != len(self.ia3):
            return output
        return scale_heads(output, self.ia3, self.ia3_heads_first)

    def merge_ia3(self) -> None:
        """Leaves the layer as it is: the norm's own weights are the same for all heads."""


LAYERS = {"outputs": OutputScaled, "some outputs": PartlyOutputScaled, "inputs": InputScaled}


class IA3(IA3Exchange):
    """`targets` names the layers instead of finding them by structure: `outputs` and `inputs`, each a list of full
    names, last name parts or patterns. `partial` accepts a model with layers where no place is found.

    The other arguments are for adapters saved before version 0.3 (see `tfew.placement.legacy_names`).
    """

    def __init__(
        self,
        targets: Mapping[str, Sequence[str]] | None = None,
        partial: bool = False,
        keys_values: Sequence[str] | None = None,
        fused_keys_values: Mapping[str, str] | None = None,
        feed_forward_linear_branch: Sequence[str] | None = None,
        feed_forward_first: Sequence[str] | None = None,
        feed_forward_second: Sequence[str] | None = None,
    ) -> None:
        if targets is not None and not targets:
            raise UserError("method.targets={} names no layer: give outputs or inputs, or null.")
        if wrong := sorted(set(targets or ()) - {"outputs", "inputs"}):
            raise UserError(f"method.targets= takes outputs and inputs, not {', '.join(wrong)}.")
        self.targets, self.partial = targets, partial
        named = {
            "keys_values": keys_values, "fused": fused_keys_values, "linear_branch": feed_forward_linear_branch,
            "first": feed_forward_first, "second": feed_forward_second,
        }  # fmt: skip
        given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        self.named = NamedLayers(**given) if given else None

    def attach(self, model: nn.Module) -> None:
        layer: Any
        neutral = self.neutral(model)
        for place in self.places(model):
            layer = model.get_submodule(place.module)
            layer.ia3 = nn.Parameter(neutral[f"{place.module}.ia3"])
            swap_class(layer, {**LAYERS, **SCALED}.get(place.scales, HeadsScaled))
            if place.scales == "some outputs":
                positions = place.positions(features(layer)[1])
                device = "cpu" if layer.ia3.is_meta else layer.ia3.device  # needs values even on "meta"
                layer.register_buffer("ia3_positions", positions.to(device), persistent=False)
            if "heads" in place.scales:
                layer.ia3_heads_first, layer.ia3_shared = place.heads_first, place.scales == "shared heads"

    def neutral(self, model: nn.Module) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        return {
            f"{place.module}.ia3": torch.ones(place.size, dtype=torch.float32, device=_device(model, place, device))
            for place in self.places(model)
        }

    def scaler(self, model: nn.Module) -> Scaler:
        places = self.places(model)
        if other := [place for place in places if place.scales in SCALED or place.scales == "shared heads"]:
            what = "experts" if other[0].scales in SCALED else "the norm of queries and keys"
            raise UserError(
                f"(IA)³ on {what} ({other[0].module}) cannot share a batch with other tasks (adapters=,"
                " train_together=): use adapter=, one task at a time."
            )
        outputs = {p.module: features(model.get_submodule(p.module))[1] for p in places if p.scales == "some outputs"}

        def scaling(place: Place, vector: Tensor) -> Scaling:
            if place.scales == "inputs":
                return Scaling(inputs=vector)
            if place.module in outputs:
                size = outputs[place.module]
                return Scaling(outputs=_with_ones(vector, place.positions(size), size))
            return Scaling(outputs=vector, heads_first=place.heads_first)

        return lambda weights: {place.module: scaling(place, weights[f"{place.module}.ia3"]) for place in places}

    def merge(self, model: nn.Module) -> None:
        layer: Any
        for place in self.places(model):
            layer = model.get_submodule(place.module)
            layer.merge_ia3()
            if place.scales in SCALED:
                restore_class(layer, "ia3")

    def places(self, model: nn.Module) -> list[Place]:
        """The places of the vectors; raises UserError if a layer has none for some vector, unless that is accepted."""
        if self.named is not None:
            return self.named.places(model)
        if self.targets is not None:
            return _named_places(model, self.targets)
        found = whole_layers(model, self.partial)
        return [
            place
            for layer in found
            for place in [
                *(place for attention in layer.attentions for place in attention.places),
                *(feed_forward.place for feed_forward in layer.feed_forwards),
            ]
        ]

    def placement(self, model: nn.Module) -> Placement:
        if self.named is not None or self.targets is not None:
            places = self.places(model)
            return of_places(places, f"{len(places)} layers that method= names")
        return of_places(self.places(model), coverage(whole_layers(model, self.partial)))


def _named_places(model: nn.Module, targets: Mapping[str, Sequence[str]]) -> list[Place]:
    found = []
    for scales, patterns in targets.items():
        for name in matching(model, patterns, f"method.targets.{scales}="):
            size = features(model.get_submodule(name))[scales == "outputs"]
            found.append(Place(name, scales, NAMED, size))
    names = [place.module for place in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"method.targets= names {twice[0]} for both outputs and inputs.")
    return found


def _device(model: nn.Module, place: Place, device: torch.device) -> torch.device:
    own = next(model.get_submodule(place.module).parameters(), None)
    return device if own is None else own.device  # a norm without weights has none


def _with_ones(vector: Tensor, positions: Tensor, size: int) -> Tensor:
    """The vector at these positions of `[size]`, and ones elsewhere."""
    ones = torch.ones(size, dtype=vector.dtype, device=vector.device)
    return ones.index_put((positions.to(vector.device),), vector)
