"""Layers that a user names: by full name, by last name part, or by a pattern (`*.layers.0.*.k_proj`)."""

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from tfew.errors import UserError
from tfew.placement.places import LINEAR


def matching(model: nn.Module, patterns: Iterable[str], option: str) -> list[str]:
    """Full names of the linear layers that match any pattern, in the model's order.

    A pattern without a dot is a last name part. Raises UserError, naming the option, if a pattern matches no layer.
    """
    patterns = list(patterns)
    if not patterns:
        raise UserError(f"{option} names no layer: give names or patterns, such as [q_proj, '*.mlp.*'], or null.")
    names = [name for name, module in model.named_modules() if isinstance(module, LINEAR)]
    for pattern in patterns:
        if not any(_fits(name, pattern) for name in names):
            raise no_match(model, names, pattern, option)
    return [name for name in names if any(_fits(name, pattern) for pattern in patterns)]


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name if "." in pattern else name.rpartition(".")[2], pattern)


def no_match(model: nn.Module, names: list[str], pattern: str, option: str) -> UserError:
    """The error for a pattern that matches none of these layers; lists the layers' names."""
    last_parts = sorted({name.rpartition(".")[2] for name in names})
    near = sorted(get_close_matches(pattern.rpartition(".")[2], last_parts, n=3))
    hint = f"; near matches: {', '.join(near)}" if near else ""
    return UserError(
        f"No Linear layer of {type(model).__name__} is named {pattern} ({option}){hint}."
        f" Its Linear layers: {', '.join(last_parts)}."
    )
