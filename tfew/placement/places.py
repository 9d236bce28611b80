"""The place of a vector of (IA)³, and helpers for linear layers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

LINEAR = (nn.Linear, Conv1D)
KEYS, VALUES, KEYS_VALUES, FEED_FORWARD, NAMED = "keys", "values", "keys and values", "feed-forward", "named"


@dataclass(frozen=True)
class Place:
    """The place of one vector: the module, the part of it that is scaled, and its role.

    scales: "outputs" or "inputs" of a linear layer; "some outputs" (those from `first_of_group` on in each of
    `groups` equal groups of outputs); "heads" (the output of a norm of keys or values; heads are dimension 1 where
    `heads_first`, else the one before the last); "shared heads" (the same of a norm for queries and keys, which have
    different numbers of heads: queries are not scaled); "experts", "batched", "split" (experts' inner activations, in
    one of the three implementations of experts in `tfew.methods.experts`). `size`: of the vector, `[E, inner]`
    of experts.
    """

    module: str
    scales: str
    role: str
    size: int | tuple[int, int]
    groups: int = 1
    first_of_group: int = 0
    heads_first: bool = False

    def positions(self, outputs: int) -> Tensor:
        """Indices of the scaled outputs, for "some outputs"."""
        position = torch.arange(outputs)
        return position[position % (outputs // self.groups) >= self.first_of_group]


def features(layer: Any) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer."""
    rows, columns = layer.weight.shape
    return (rows, columns) if isinstance(layer, Conv1D) else (columns, rows)


def linears_of(module: nn.Module) -> dict[str, Any]:
    """Children that are linear layers, by name."""
    return {name: child for name, child in module.named_children() if isinstance(child, LINEAR)}


def is_linear(module: nn.Module, name: str) -> bool:
    """Whether the module contains a linear layer of this (dotted) name."""
    try:
        return isinstance(module.get_submodule(name), LINEAR)
    except AttributeError:
        return False


def is_matrix(module: nn.Module) -> bool:
    """Whether the module itself has a weight that states are multiplied with."""
    own = any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))
    return own and not isinstance(module, nn.Embedding)
