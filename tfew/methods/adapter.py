"""Adapters (Houlsby et al. 2019, arXiv 1902.00751): a bottleneck after a sub-layer, and the layer norms with it.

    out + up(relu(down(out)))        out [..., D], down D -> D / reduction, up back to D

`out` is the sub-layer's output, before the layer's dropout and residual. The paper (appendix D) describes adapters
after self-attention and feed-forward; the official code (`configs/adapter.json`) has them after the feed-forward only,
which matches its count of 12.9M. Weights start small but not at zero (N(0, 0.02²)), so the model's function changes
slightly from the start. All new parameters are float32: with a bfloat16 base, `out` is cast to float32 and back.

Places are found by T5's module names, and other families are rejected: each of them defines the end of a sub-layer
differently.
"""

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from tfew.errors import UserError
from tfew.methods.base import Method
from tfew.methods.surgery import train_layer_norms

LAST_LINEARS = ("o", "wo")  # of T5's attention, of its feed-forward: their outputs are the sub-layers' outputs


class Bottleneck(nn.Module):
    """`x + up(relu(down(x)))` in the type of its own parameters; the result has the type of `x`."""

    def __init__(self, down: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.down, self.up = down, up

    def forward(self, x: Tensor) -> Tensor:
        own = x.to(next(self.parameters()).dtype)
        return (own + self.up(relu(self.down(own)))).to(x.dtype)


class Adapter(Method):
    """`places` are last name parts of T5's sub-layers; all of them must be found."""

    merges = False

    def __init__(self, places: Sequence[str], reduction: int, init_std: float, layer_norms: bool) -> None:
        self.places = list(places)
        self.reduction = reduction
        self.init_std = init_std
        self.layer_norms = self.trains_base = layer_norms

    def attach(self, model: nn.Module) -> None:
        for place, last in find_places(model, self.places):
            insert_after(place, self._bottleneck(last.out_features, last.weight.device))
        if self.layer_norms:
            train_layer_norms(model)

    def _bottleneck(self, width: int, device: torch.device) -> Bottleneck:
        inner = inner_width(width, self.reduction)
        return Bottleneck(self._linear(width, inner, device), self._linear(inner, width, device))

    def _linear(self, inputs: int, outputs: int, device: torch.device) -> nn.Linear:
        with torch.device("meta"):
            linear = nn.Linear(inputs, outputs)
        linear.weight = drawn_normal([outputs, inputs], self.init_std, device)
        linear.bias = zeros(outputs, device)
        return linear


def find_places(model: nn.Module, names: Iterable[str]) -> list[tuple[nn.Module, nn.Linear]]:
    """Sub-layers whose last name part is in `names`, in the model's order, each with the Linear that ends it."""
    wanted = set(names)
    found = {name: m for name, m in model.named_modules() if name.rpartition(".")[2] in wanted}
    missing = wanted - {name.rpartition(".")[2] for name in found}
    if missing or not wanted:
        raise _no_place(model, missing)
    return [(module, _last_linear(model, name, module)) for name, module in found.items()]


def insert_after(place: nn.Module, adapter: nn.Module) -> None:
    """Makes `adapter` a submodule of the sub-layer and applies it to the sub-layer's output."""
    place.adapter = adapter.train(place.training)
    place.register_forward_hook(_run_adapter)


def inner_width(width: int, reduction: int) -> int:
    if not 1 <= reduction <= width:
        raise UserError(f"method.reduction={reduction} leaves nothing of the model's width {width}.")
    return width // reduction


def drawn_normal(shape: Sequence[int], std: float, device: torch.device) -> nn.Parameter:
    """N(0, std²), drawn on the CPU, so that a seed gives the same numbers on every device."""
    return nn.Parameter(nn.init.normal_(empty_for(shape, device), std=std).to(device))


def zeros(size: int, device: torch.device) -> nn.Parameter:
    return nn.Parameter(torch.zeros(size, dtype=torch.float32, device=device))


def empty_for(shape: Sequence[int], device: torch.device) -> Tensor:
    """An uninitialised tensor on the CPU, to be filled there and then moved to `device`; on "meta" if that is it."""
    return torch.empty(*shape, dtype=torch.float32, device="meta" if device.type == "meta" else "cpu")


def _run_adapter(module: nn.Module, inputs: Any, output: Any) -> Any:
    """A forward hook. It gets the adapter from the module, so that a copy of the model runs its own adapter."""
    adapter: Callable[[Tensor], Tensor] = module.adapter  # type: ignore[assignment]
    if isinstance(output, tuple):  # attention: its output comes first
        return adapter(output[0]), *output[1:]
    return adapter(output)


def _last_linear(model: nn.Module, name: str, module: nn.Module) -> nn.Linear:
    for child in LAST_LINEARS:
        linear = getattr(module, child, None)
        if isinstance(linear, nn.Linear):
            return linear
    raise UserError(
        f"{name} of {type(model).__name__} (method.places) is no sub-layer that ends in a Linear named"
        f" {' or '.join(LAST_LINEARS)}, as T5's do."
    )


def _no_place(model: nn.Module, missing: Iterable[str]) -> UserError:
    names = sorted(missing)
    present = sorted({name.rpartition(".")[2] for name, _ in model.named_modules()} - {""})
    near = sorted({match for name in names for match in get_close_matches(name, present, n=2)})
    hint = f" Near matches: {', '.join(near)}." if near else ""
    return UserError(
        f"No module of {type(model).__name__} is named {' or '.join(names) or 'nothing'} (method.places).{hint}"
        " Adapters and Compacter are made for the T5 family (T5, T0, Flan-T5, mT5)."
    )
