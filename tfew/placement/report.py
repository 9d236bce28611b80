"""Where a method is in a model, in one line and as a table; errors for layers without a place."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from tfew.errors import UserError, shorten_list
from tfew.placement.legacy_names import layers_named
from tfew.placement.named_layers import matching
from tfew.placement.places import KEYS, KEYS_VALUES, LINEAR, VALUES, Place
from tfew.placement.structure import Layer, layers

PARTS = {"keys and values": lambda layer: layer.has_keys, "feed-forward": lambda layer: bool(layer.feed_forwards)}


@dataclass(frozen=True)
class Placement:
    """`line`: where a method is; `rows`: (what is scaled, module with * for layer numbers, its role, count)."""

    line: str
    rows: list[tuple[str, str, str, int]]

    def to_json(self) -> dict[str, Any]:
        names = ("what", "module", "of", "count")
        return {"line": self.line, "rows": [dict(zip(names, row, strict=True)) for row in self.rows]}

    def as_text(self) -> str:
        """The line, and under it the table."""
        width = max(len(module) for _, module, _, _ in self.rows)
        parts = max(len(part) for part, _, _, _ in self.rows)
        lines = [
            f"  {count:>5} x {module:<{width}}  {part:<{parts}}  {what}" for part, module, what, count in self.rows
        ]
        return "\n".join([self.line, *lines])


def whole_layers(model: nn.Module, partial: bool) -> list[Layer]:
    """The model's layers; raises UserError if one lacks a known place, unless `partial` accepts that."""
    found = layers(model)
    kind = type(model).__name__
    if not any(layer.attentions for layer in found) or not any(layer.feed_forwards for layer in found):
        raise UserError(
            f"{kind} has no attention and feed-forward that this project recognises: name layers with method.targets=,"
            " or describe its classes in a file of configs/backbone."
        )
    unknown = [name for layer in found for name in layer.unknown]
    lacking = {
        part: [layer.name for layer in found if not has(layer)]
        for part, has in PARTS.items()
        if not all(map(has, found))
    }
    if (lacking or unknown) and not partial:
        parts = [f"no {part} in {len(names)} ({shorten_list(names, 3)})" for part, names in lacking.items()]
        said = "; ".join([*parts, *([f"not known: {shorten_list(unknown, 3)}"] if unknown else [])])
        raise UserError(
            f"Some of the {len(found)} layers of {kind} have no place for the method: {said}. method.partial=true"
            " accepts that; method.targets= names layers; a file of configs/backbone describes classes."
        )
    return found


def coverage(found: Sequence[Layer]) -> str:
    """ "keys, values and feed-forward in 30 of 30 layers"."""
    counts = [sum(map(has, found)) for has in PARTS.values()]
    unknown = [name for layer in found for name in layer.unknown]
    without = f", without {shorten_list(unknown, 3)}" if unknown else ""
    if counts[0] == counts[1]:
        return f"keys, values and feed-forward in {counts[0]} of {len(found)} layers{without}"
    return f"keys and values in {counts[0]}, feed-forward in {counts[1]} of {len(found)} layers{without}"


@dataclass(frozen=True)
class MatrixChoice:
    """The matrices that a method uses: by the model's structure, or named by `targets` or `last_parts` (adapters saved
    before version 0.3). Without `second`, second matrices of feed-forwards are left out.
    """

    targets: Sequence[str] | None = None
    partial: bool = False
    last_parts: Sequence[str] | None = None
    second: bool = True

    def names(self, model: nn.Module) -> list[str]:
        """Names of linear layers, and of modules that hold the matrices of experts."""
        if self.last_parts is not None:
            return layers_named(model, self.last_parts)
        if self.targets is not None:
            return matching(model, self.targets, "method.targets=")
        found = []
        for layer in whole_layers(model, self.partial):
            found += [name for attention in layer.attentions for name in attention.matrices]
            found += [name for part in layer.feed_forwards for name in (part.matrices if self.second else part.first)]
        return [name for name, _ in model.named_modules() if name in set(found)]  # draws depend on the model's order

    def linears(self, model: nn.Module) -> dict[str, Any]:
        """By name, for methods that support linear layers only; raises UserError if there are experts."""
        found = {name: model.get_submodule(name) for name in self.names(model)}
        linears = {name: layer for name, layer in found.items() if isinstance(layer, LINEAR)}
        if len(linears) < len(found) and not self.partial:
            raise UserError(
                f"This method does not support experts ({next(iter(found.keys() - linears.keys()))}):"
                " method.partial=true leaves them out."
            )
        return linears

    def placement(self, model: nn.Module) -> Placement:
        names = self.names(model)
        by_structure = self.targets is None and self.last_parts is None
        where = coverage(whole_layers(model, self.partial)) if by_structure else f"{len(names)} matrices named"
        return Placement(where, _rows(("matrix", name, "weight") for name in names))


def of_places(places: Iterable[Place], where: str) -> Placement:
    """The placement of vectors."""
    return Placement(where, _rows((_part(place), place.module, place.scales) for place in places))


def _part(place: Place) -> str:
    return place.role if place.role not in (KEYS, VALUES, KEYS_VALUES) else f"{place.role} of attention"


def _rows(found: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str, int]]:
    counted = Counter((part, _without_numbers(name), what) for part, name, what in found)
    return [(part, name, what, count) for (part, name, what), count in counted.items()]


def _without_numbers(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))
