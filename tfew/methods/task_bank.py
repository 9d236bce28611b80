"""Vectors of many tasks in one model: each row of a batch is scaled by its own task's (T-Few's mixed-task batches).

For methods that only scale inputs or outputs of linear layers (`Method.scalings`). In such a layer the vectors of K
tasks form a matrix, and each row of the input selects its own by the task in `tfew.scoring.routing`:

    y = W (x * inputs_KD[task]) * outputs_KD[task]
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tfew.errors import UserError
from tfew.methods.merging import restore_class
from tfew.methods.surgery import swap_class
from tfew.scoring.routing import tasks_of_rows

BARE = 0  # the place of the bare model in a TaskBank
ROOM = 4  # initial number of places
SIDES = ("task_inputs", "task_outputs")


@dataclass(frozen=True)
class Scaling:
    """The factors of a layer's inputs and outputs (bias included); None: ones.

    A norm's outputs `[..., heads, D]`, or `[B, heads, L, D]` where `heads_first`, have the factors `[heads * D]`.
    """

    inputs: Tensor | None = None
    outputs: Tensor | None = None
    heads_first: bool = False


# from a method's `stored` weights to each layer's scaling, by name; differentiable
Scaler = Callable[[Mapping[str, Tensor]], dict[str, Scaling]]


class ScaledByTask(nn.Module):
    """A linear layer with the factors of K tasks, `[K, inputs]` and `[K, outputs]`, or None for ones."""

    task_inputs: Tensor | None
    task_outputs: Tensor | None
    task_heads_first = False

    def forward(self, input: Tensor) -> Tensor:
        task_R = tasks_of_rows()
        if task_R is None:
            raise RuntimeError("the model holds vectors of many tasks, and the batch has no task_id to select them by")
        output = super().forward(_scaled(input, self.task_inputs, task_R))
        return _scaled(output, self.task_outputs, task_R, self.task_heads_first)


def scale_heads(x: Tensor, factor: Tensor, heads_first: bool) -> Tensor:
    """`x` `[..., heads, D]`, or `[B, heads, L, D]` where `heads_first`, or `[..., heads * D]`, times `[heads * D]`."""
    if x.shape[-1] == len(factor):
        return (x * factor).to(x.dtype)
    return (x * _by_head(x, factor, heads_first)).to(x.dtype)


def _by_head(x: Tensor, factor: Tensor, heads_first: bool) -> Tensor:
    """`[heads, D]`, or `[heads, 1, D]`; raises UserError if the heads are not on the configured dimension."""
    heads = factor.shape[-1] // x.shape[-1]
    if x.shape[1 if heads_first else -2] != heads:
        other = "no heads_first" if heads_first else "heads_first: true"
        raise UserError(
            f"The norm of keys gives {list(x.shape)}, and {heads} heads were expected elsewhere: its attention class"
            f" needs {other} in a file of configs/backbone."
        )
    return factor.unflatten(-1, (heads, -1)).unsqueeze(-2) if heads_first else factor.unflatten(-1, (heads, -1))


def _scaled(x: Tensor, factor_KD: Tensor | None, task_R: Tensor, heads_first: bool = False) -> Tensor:
    """Scales `x` `[..., D]`, whose tokens are those of R rows in order, in any shape; or by head (`Scaling`)."""
    if factor_KD is None:
        return x
    factor_RD = factor_KD.index_select(0, task_R)
    if x.shape[-1] == factor_RD.shape[-1]:
        rows_RWD = x.reshape(len(task_R), -1, x.shape[-1])
        return (rows_RWD * factor_RD[:, None]).to(x.dtype).view(x.shape)
    factor_RHD = _by_head(x, factor_RD, heads_first).reshape(len(task_R), 1, -1, x.shape[-1])
    tokens = x.transpose(1, 2) if heads_first else x
    scaled = (tokens.reshape(len(task_R), -1, *factor_RHD.shape[2:]) * factor_RHD).to(x.dtype).view(tokens.shape)
    return scaled.transpose(1, 2) if heads_first else scaled


def put_scalings(model: nn.Module, tasks: Sequence[Mapping[str, Scaling]]) -> None:
    """From now on, task k of a batch is scaled by `tasks[k]` (by layer name); gradients reach the factors."""
    layer: Any
    for name in dict.fromkeys(name for scalings in tasks for name in scalings):
        layer = scaled_by_task(model, name)
        layer.task_heads_first = any(scalings[name].heads_first for scalings in tasks if name in scalings)
        for side, of_tasks in zip(SIDES, _by_side(tasks, name), strict=True):
            if given := [factor for factor in of_tasks if factor is not None]:
                ones = torch.ones_like(given[0])
                setattr(layer, side, torch.stack([ones if factor is None else factor for factor in of_tasks]))


def _by_side(tasks: Sequence[Mapping[str, Scaling]], name: str) -> tuple[list[Tensor | None], list[Tensor | None]]:
    found = [scalings.get(name, Scaling()) for scalings in tasks]
    return [scaling.inputs for scaling in found], [scaling.outputs for scaling in found]


def scaled_by_task(model: nn.Module, name: str) -> Any:
    """The layer of this name, converted to a `ScaledByTask` if it is not one yet."""
    layer: Any = model.get_submodule(name)
    if not isinstance(layer, ScaledByTask):
        for side in SIDES:
            layer.register_buffer(side, None, persistent=False)
        swap_class(layer, ScaledByTask)
    return layer


def without_tasks(model: nn.Module) -> None:
    """Restores the model to its state before any task's scalings."""
    for layer in model.modules():
        if isinstance(layer, ScaledByTask):
            restore_class(layer, *SIDES)


class TaskBank:
    """Tasks that are added and removed between batches while the model is in use; place 0 is the bare model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.places = ROOM
        self._free = list(range(1, ROOM))
        self._layers: dict[str, Any] = {}
        self._device = next(model.parameters()).device

    def add(self, scalings: Mapping[str, Scaling]) -> int:
        """Adds a task and returns its place, the `Batch.task_id` of its examples."""
        if not self._free:
            self._make_room()
        place = self._free.pop(0)
        for name, scaling in scalings.items():
            layer = self._layers[name] = scaled_by_task(self.model, name)
            layer.task_heads_first = scaling.heads_first
            for side, factor in zip(SIDES, (scaling.inputs, scaling.outputs), strict=True):
                if factor is not None:
                    if getattr(layer, side) is None:
                        setattr(layer, side, torch.ones(self.places, len(factor), device=self._device))
                    getattr(layer, side)[place] = factor.detach()
        return place

    def remove(self, place: int) -> None:
        """Frees a task's place; the next added task may get it."""
        for factor_KD in self._factors().values():
            factor_KD[place] = 1
        self._free = sorted([*self._free, place])

    def _make_room(self) -> None:
        for (layer, side), factor_KD in self._factors().items():
            setattr(layer, side, torch.cat([factor_KD, torch.ones_like(factor_KD)]))
        self._free = list(range(self.places, 2 * self.places))
        self.places *= 2

    def _factors(self) -> dict[tuple[Any, str], Tensor]:
        found = {(layer, side): getattr(layer, side) for layer in self._layers.values() for side in SIDES}
        return {key: factor_KD for key, factor_KD in found.items() if factor_KD is not None}
