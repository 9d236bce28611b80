"""Extends layers in place.

A layer keeps its weight and becomes an instance of a subclass: transformers reads attributes such as `wo.weight`, so
a wrapper module would break it. The frozen base must stay identical bit for bit.
"""

from functools import cache
from typing import Any

from torch import nn

from tfew.errors import UserError


def swap_class(layer: nn.Module, mixin: type) -> None:
    """Makes the layer an instance of `mixin` and its own class: the mixin's forward may call super()'s."""
    kind: Any = type(layer)
    layer.__class__ = _extended(mixin, kind)


@cache
def _extended(mixin: type, kind: type) -> type:
    """The same class for all layers of a kind: torch.compile recompiles for each class."""
    return type(f"{mixin.__name__}{kind.__name__}", (mixin, kind), {})


def train_layer_norms(model: nn.Module) -> None:
    """Unfreezes every layer norm, as the official configurations of most methods do."""
    norms = [module for module in model.modules() if type(module).__name__.endswith(("LayerNorm", "RMSNorm"))]
    if not norms:
        raise UserError(f"{type(model).__name__} has no layer norms to train; set method.layer_norms=false.")
    for norm in norms:
        norm.requires_grad_(True)
