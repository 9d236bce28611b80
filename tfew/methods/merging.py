"""Folds an adapter into plain weights, one layer at a time; checks that each weight can hold its update, and that
nothing else of it remains.

Computed in float32 whatever the weight's dtype, so a float32 weight is exact up to rounding.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tfew.errors import UserError, shorten_list


@torch.no_grad()
def scale_outputs(layer: Any, factor: Tensor) -> None:
    """y -> factor y, bias included; `factor` `[outputs]`."""
    weight = layer.weight
    factors = factor if isinstance(layer, Conv1D) else factor[:, None]  # Conv1D holds [inputs, outputs]
    weight.copy_(weight.float() * factors)
    if layer.bias is not None:
        layer.bias.copy_(layer.bias.float() * factor)


@torch.no_grad()
def scale_inputs(layer: Any, factor: Tensor) -> None:
    """x -> factor x; `factor` `[inputs]`."""
    weight = layer.weight
    weight.copy_(weight.float() * (factor[:, None] if isinstance(layer, Conv1D) else factor))


@torch.no_grad()
def add_to_weight(layer: Any, update: Tensor) -> None:
    """W -> W + update; `update` `[outputs, inputs]`."""
    weight = layer.weight
    weight.copy_(weight.float() + (update.T if isinstance(layer, Conv1D) else update))


def restore_class(layer: nn.Module, *names: str) -> None:
    """Undoes `surgery.swap_class`: restores the layer's own class and removes these parameters and buffers."""
    _, kind = type(layer).__bases__
    for name in names:
        delattr(layer, name)
    layer.__class__ = kind


def check_unshared(method: str, model: nn.Module) -> None:
    """Raises UserError if a weight that holds an adapter is also the weight of another module: a tied output head, or
    layers that share their matrices. The update would be in both, or once from each.
    """
    modules = dict(model.named_modules())
    owners: dict[int, list[str]] = {}
    for name, module in modules.items():
        for own, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(f"{name}.{own}")
    for module in modules.values():
        parameters = list(module.parameters(recurse=False))
        if not any(parameter.requires_grad for parameter in parameters):
            continue
        for names in (owners[id(parameter)] for parameter in parameters if not parameter.requires_grad):
            if len(names) > 1:
                raise UserError(
                    f"The method {method} cannot be merged into a plain checkpoint (to=merged): {type(model).__name__}"
                    f" has one weight for {shorten_list(names, 4)}, so it cannot hold the adapter of one of them. Use"
                    " the adapter unmerged."
                )


def check_plain(method: str, model: nn.Module) -> None:
    """Raises UserError if names or classes of modules differ from a model built from its configuration."""
    with torch.device("meta"):
        plain = type(model)(model.config)
    extra = sorted(set(model.state_dict()) ^ set(plain.state_dict()))
    classes = {name: type(module) for name, module in plain.named_modules()}
    other = [name for name, module in model.named_modules() if classes.get(name) is not type(module)]
    hooked = [name for name, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks]
    if extra or other or hooked:
        left = shorten_list({*extra, *other, *hooked}, 4)
        raise UserError(
            f"The method {method} cannot be merged into a plain checkpoint (to=merged): what it adds to"
            f" {type(model).__name__} has no place there ({left})."
        )
