"""Finding linear layers by name and giving them more to do, in place.

A layer keeps its weight and becomes a subclass of what it was: transformers reads attributes such as `wo.weight`, so
a wrapper module would break it, and the frozen base must stay bit for bit what it was. "Linear" means nn.Linear or
transformers' Conv1D, the same thing with its weight transposed (GPT-2).
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from tfew.errors import UserError

LINEAR = (nn.Linear, Conv1D)


def features(layer: Any) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer."""
    rows, columns = layer.weight.shape
    return (rows, columns) if isinstance(layer, Conv1D) else (columns, rows)


def swap_class(layer: nn.Module, mixin: type) -> None:
    """Makes the layer an instance of `mixin` on top of its own class: the mixin's forward may call super()'s."""
    kind = type(layer)
    layer.__class__ = type(f"{mixin.__name__}{kind.__name__}", (mixin, kind), {})


def find_linears(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Full names of the linear layers whose last name part is in `names`, in the model's order."""
    wanted = set(names)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, LINEAR) and name.rpartition(".")[2] in wanted
    ]


def require_linears(model: nn.Module, names: Iterable[str], knob: str) -> dict[str, Any]:
    """The layers of `find_linears` by full name; raises UserError naming the knob where there is none."""
    names = list(names)
    found = find_linears(model, names)
    if not found:
        raise no_match(model, names, knob)
    return {name: model.get_submodule(name) for name in found}


def no_match(model: nn.Module, names: Iterable[str], knob: str) -> UserError:
    """The error for layer names that this model does not have; lists what it does have."""
    names = list(names)
    present = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, LINEAR)})
    near = sorted({match for name in names for match in get_close_matches(name, present, n=2)})
    hint = f"; near matches: {', '.join(near)}" if near else ""
    return UserError(
        f"No Linear layer of {type(model).__name__} is named {' or '.join(names)} ({knob}){hint}."
        f" Its Linear layers: {', '.join(present)}."
    )


def sibling_names(model: nn.Module, name: str) -> set[str]:
    """Names of the modules that stand beside this one in its parent."""
    parent = model.get_submodule(name.rpartition(".")[0])
    return {child for child, _ in parent.named_children()}


def train_layer_norms(model: nn.Module) -> None:
    """Unfreezes every layer norm (the official configurations of most methods train them too)."""
    norms = [module for module in model.modules() if type(module).__name__.endswith(("LayerNorm", "RMSNorm"))]
    if not norms:
        raise UserError(f"{type(model).__name__} has no layer norms to train; say method.layer_norms=false.")
    for norm in norms:
        norm.requires_grad_(True)
