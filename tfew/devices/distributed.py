"""Ranks of a run's processes, and communication between them.

A run on several devices has one process per device; all run the same program on their share of the same data. Only
the first writes files and logs. In a run with a single process, everything here is the identity.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # a command that only reports wrong settings needs no torch
    from torch import Tensor, nn

T = TypeVar("T")
BUCKET_NUMBERS = 2**25  # of gradients, in one message: 128 MB


def rank() -> int:
    """This process's number, from 0; before the processes are connected, from the environment."""
    if world_size() > 1:
        return int(_distributed().get_rank())
    place = {key: os.environ.get(key, "") for key in ("RANK", "LOCAL_RANK", "SLURM_STEP_ID", "SLURM_PROCID")}
    if place["RANK"].isdigit() and place["LOCAL_RANK"].isdigit():
        return int(place["RANK"])
    return int(place["SLURM_PROCID"]) if place["SLURM_STEP_ID"] and place["SLURM_PROCID"].isdigit() else 0


def world_size() -> int:
    """Number of connected processes."""
    distributed = _distributed()
    connected = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return int(distributed.get_world_size()) if connected else 1


def local_rank_and_size() -> tuple[int, int]:
    """This process's number among those on its machine, and their number."""
    return (int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])) if world_size() > 1 else (0, 1)


def is_main_process() -> bool:
    return rank() == 0


def is_secondary_process() -> bool:
    """Whether this is one of several connected processes, and not the first: it writes nothing."""
    return world_size() > 1 and not is_main_process()


def deal_out(items: Sequence[T], processes: int, piece: int = 1) -> list[list[T]]:
    """Distributes items round-robin, `piece` consecutive ones at a time; those of each process stay in order."""
    pieces = [items[start : start + piece] for start in range(0, len(items), piece)]
    return [[item for dealt in pieces[first::processes] for item in dealt] for first in range(processes)]


def split_between_processes(items: Sequence[T], piece: int = 1) -> list[T]:
    """This process's part of the items."""
    return deal_out(items, world_size(), piece)[rank() if world_size() > 1 else 0]


def all_gather_objects(mine: T) -> list[T]:
    """The objects of all processes, by rank; they are pickled for the transfer."""
    everyone: list[Any] = [mine] * world_size()
    if world_size() > 1:
        _distributed().all_gather_object(everyone, mine)
    return everyone


def broadcast_object(mine: T) -> T:
    """The first process's object; the others wait for it."""
    box = [mine]
    if world_size() > 1:
        _distributed().broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    all_gather_objects(None)


def all_gather_integers(mine: Sequence[int], device: Any) -> list[list[int]]:
    """A few integers of each process, the same number in each, by rank; faster than `all_gather_objects`."""
    if world_size() == 1:
        return [list(mine)]
    import torch

    row = torch.tensor(mine, device=device)
    rows = [torch.empty_like(row) for _ in range(world_size())]
    _distributed().all_gather(rows, row)
    table: list[list[int]] = torch.stack(rows).tolist()
    return table


def all_reduce(tensor: "Tensor") -> None:
    """Replaces the tensor by the sum over all processes, in place, identical on all to the last bit."""
    if world_size() > 1:
        _distributed().all_reduce(tensor)


def all_reduce_gradients(parameters: Iterable["nn.Parameter"]) -> None:
    """Replaces each gradient by the sum over all processes, added in float32.

    A parameter that no process's examples used is left without a gradient, as in a run of one process.
    """
    if world_size() == 1:
        return
    import torch

    parameters = list(parameters)
    has = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device)
    all_reduce(has)
    gradients = []
    for parameter, anywhere in zip(parameters, has.tolist(), strict=True):
        if anywhere and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if parameter.grad is not None:
            gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        line = torch.cat([gradient.flatten().float() for gradient in bucket])
        all_reduce(line)
        parts = line.split([gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def broadcast_parameters(parameters: Iterable["nn.Parameter"]) -> None:
    """Copies the first process's values to all, so that no difference between machines remains in them."""
    if world_size() > 1:
        for parameter in parameters:
            _distributed().broadcast(parameter.data, src=0)


def _buckets(tensors: Sequence["Tensor"]) -> Iterable[list["Tensor"]]:
    """Groups consecutive tensors up to `BUCKET_NUMBERS` elements; a larger tensor is a group of its own."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET_NUMBERS:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _distributed() -> Any:
    """torch.distributed, if it was imported: before that no process can be connected."""
    return sys.modules.get("torch.distributed")
