"""Placement by lists of last name parts, as in settings before version 0.3, for adapters saved then."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tfew.errors import UserError, unknown_value_error
from tfew.placement.named_layers import no_match
from tfew.placement.places import FEED_FORWARD, KEYS_VALUES, LINEAR, Place, features

FUSED_LAYOUTS = ("thirds", "per_head")


@dataclass(frozen=True)
class NamedLayers:
    """Those settings of (IA)³. A layer of `second` counts only beside one of `first`."""

    keys_values: Sequence[str] = ("k", "v", "k_proj", "v_proj")
    fused: Mapping[str, str] = field(default_factory=lambda: {"c_attn": "thirds", "query_key_value": "per_head"})
    linear_branch: Sequence[str] = ("wi_1", "up_proj")
    first: Sequence[str] = ("wi", "fc1", "c_fc", "dense_h_to_4h")
    second: Sequence[str] = ("wo", "fc2", "c_proj", "dense_4h_to_h")

    def __post_init__(self) -> None:
        for name, layout in self.fused.items():
            if layout not in FUSED_LAYOUTS:
                raise unknown_value_error("layout", layout, FUSED_LAYOUTS, f"method.fused_keys_values.{name}=")

    def places(self, model: Any) -> list[Place]:
        linears = {name: module for name, module in model.named_modules() if isinstance(module, LINEAR)}
        last = {name: name.rpartition(".")[2] for name in linears}
        found = []
        for name, layer in linears.items():
            inputs, outputs = features(layer)
            if last[name] in self.keys_values:
                found.append(Place(name, "outputs", KEYS_VALUES, outputs))
            elif last[name] in self.fused:
                groups = model.config.num_attention_heads if self.fused[last[name]] == "per_head" else 1
                third = outputs // (3 * groups)
                found.append(Place(name, "some outputs", KEYS_VALUES, 2 * third * groups, groups, third))
            elif last[name] in self.linear_branch:
                found.append(Place(name, "outputs", FEED_FORWARD, outputs))
            elif last[name] in self.second and _siblings(model, name) & set(self.first):
                found.append(Place(name, "inputs", FEED_FORWARD, inputs))
        for role, names in ((KEYS_VALUES, [*self.keys_values, *self.fused]), (FEED_FORWARD, self.second)):
            if role not in {place.role for place in found}:
                raise UserError(f"No layer of {type(model).__name__} for {role} is named {' or '.join(names)}.")
        return found


def layers_named(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Full names of the linear layers whose last name part is one of these; raises UserError if there are none."""
    linears = [name for name, module in model.named_modules() if isinstance(module, LINEAR)]
    found = [name for name in linears if name.rpartition(".")[2] in names]
    if not found:
        raise no_match(model, linears, " or ".join(names), "method.targets=")
    return found


def _siblings(model: nn.Module, name: str) -> set[str]:
    return {child for child, _ in model.get_submodule(name.rpartition(".")[0]).named_children()}
