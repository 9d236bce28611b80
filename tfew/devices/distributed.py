"""Which of a run's processes this is, and what the processes tell one another.

A run on several devices is one process a device, and all run the same program on their share of the same data. Only
the first writes, and says anything. Of a run that is one process alone, everything here is the identity.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # a command that only says what is wrong with its settings needs no torch
    from torch import Tensor, nn

T = TypeVar("T")
BUCKET_NUMBERS = 2**25  # of gradients, in one message: 128 MB


def rank() -> int:
    """This process's number, from 0; before the processes are connected, as the environment has it."""
    if world() > 1:
        return int(_distributed().get_rank())
    place = {key: os.environ.get(key, "") for key in ("RANK", "LOCAL_RANK", "SLURM_STEP_ID", "SLURM_PROCID")}
    if place["RANK"].isdigit() and place["LOCAL_RANK"].isdigit():
        return int(place["RANK"])
    return int(place["SLURM_PROCID"]) if place["SLURM_STEP_ID"] and place["SLURM_PROCID"].isdigit() else 0


def world() -> int:
    """How many processes are connected."""
    distributed = _distributed()
    connected = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return int(distributed.get_world_size()) if connected else 1


def on_this_machine() -> tuple[int, int]:
    """This process's number among those on its machine, and how many these are."""
    return (int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])) if world() > 1 else (0, 1)


def is_first() -> bool:
    return rank() == 0


def follows() -> bool:
    """Whether this is one of several connected processes, and not the first: it writes nothing."""
    return world() > 1 and not is_first()


def shares(items: Sequence[T], processes: int, piece: int = 1) -> list[list[T]]:
    """The items dealt out like cards, `piece` consecutive ones at a time; those of each process stay in order."""
    pieces = [items[start : start + piece] for start in range(0, len(items), piece)]
    return [[item for dealt in pieces[first::processes] for item in dealt] for first in range(processes)]


def share(items: Sequence[T], piece: int = 1) -> list[T]:
    """This process's part of them."""
    return shares(items, world(), piece)[rank() if world() > 1 else 0]


def gathered(mine: T) -> list[T]:
    """What all processes have, by rank; it is pickled on the way."""
    everyone: list[Any] = [mine] * world()
    if world() > 1:
        _distributed().all_gather_object(everyone, mine)
    return everyone


def from_first(mine: T) -> T:
    """What the first process has; the others wait for it."""
    box = [mine]
    if world() > 1:
        _distributed().broadcast_object_list(box, src=0)
    return box[0]


def wait_for_all() -> None:
    gathered(None)


def numbers_of_all(mine: Sequence[int], device: Any) -> list[list[int]]:
    """The same few whole numbers of every process, by rank; faster than `gathered`."""
    if world() == 1:
        return [list(mine)]
    import torch

    row = torch.tensor(mine, device=device)
    rows = [torch.empty_like(row) for _ in range(world())]
    _distributed().all_gather(rows, row)
    table: list[list[int]] = torch.stack(rows).tolist()
    return table


def add_up(tensor: "Tensor") -> None:
    """Makes it the sum over all processes, in place, the same everywhere to the last bit."""
    if world() > 1:
        _distributed().all_reduce(tensor)


def add_up_gradients(parameters: Iterable["nn.Parameter"]) -> None:
    """Makes each gradient the sum over all processes, added in float32.

    A parameter that had no part in any process's examples is left without a gradient, as in a run of one process.
    """
    if world() == 1:
        return
    import torch

    parameters = list(parameters)
    has = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device)
    add_up(has)
    gradients = []
    for parameter, anywhere in zip(parameters, has.tolist(), strict=True):
        if anywhere and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if parameter.grad is not None:
            gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        line = torch.cat([gradient.flatten().float() for gradient in bucket])
        add_up(line)
        parts = line.split([gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def take_from_first(parameters: Iterable["nn.Parameter"]) -> None:
    """Gives the first process's values to all, so that no difference between machines lives on in them."""
    if world() > 1:
        for parameter in parameters:
            _distributed().broadcast(parameter.data, src=0)


def _buckets(tensors: Sequence["Tensor"]) -> Iterable[list["Tensor"]]:
    """Consecutive tensors together, up to `BUCKET_NUMBERS`, or one that is larger alone."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET_NUMBERS:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _distributed() -> Any:
    """torch.distributed where it was imported: nothing can be connected before."""
    return sys.modules.get("torch.distributed")
