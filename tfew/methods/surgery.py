"""Extends layers in place.

A layer keeps its weight and becomes an instance of a subclass: transformers reads attributes such as `wo.weight`, so
a wrapper module would break it. The frozen base must stay identical bit for bit.
"""

import re
from functools import cache
from typing import Any

from torch import nn

from tfew.errors import UserError
from tfew.placement.structure import outside_text


def swap_class(layer: nn.Module, mixin: type) -> None:
    """Makes the layer an instance of `mixin` and its own class: the mixin's forward may call super()'s."""
    kind: Any = type(layer)
    layer.__class__ = _extended(mixin, kind)


@cache
def _extended(mixin: type, kind: type) -> type:
    """The same class for all layers of a kind: torch.compile recompiles for each class."""
    return type(f"{mixin.__name__}{kind.__name__}", (mixin, kind), {})


def train_layer_norms(model: nn.Module) -> None:
    """Unfreezes every layer norm of the text model, as the official configurations of most methods do.

    Raises UserError if there is none; one without weights counts.
    """
    norms = {name: module for name, module in model.named_modules() if is_layer_norm(module)}
    if not norms:
        raise UserError(f"{type(model).__name__} has no layer norms to train; set method.layer_norms=false.")
    for name in norms.keys() - outside_text(model):
        norms[name].requires_grad_(True)


def is_layer_norm(module: nn.Module) -> bool:
    """By its class: FooLayerNorm, FooLayerNorm1P, but not FooRMSNormGated, the last step of a state-space layer, nor
    FooLayerNormHead, which contains layers.
    """
    kind = type(module).__name__
    if kind.endswith(("LayerNorm", "RMSNorm")):
        return True
    return bool(re.search("LayerNorm|RMSNorm", kind)) and "Gated" not in kind and not any(module.named_children())
