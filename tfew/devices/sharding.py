"""Shards frozen weights over processes (FSDP2): each keeps a part of every block, and gathers a block to run it.

Trained parameters are not sharded, so the optimiser sees the same as on one device. Nor are embeddings, output head
and final norms, a few per cent of a large model, which the engine also reads outside of modules' forward.

No process ever holds a full copy of the model. Weights are memory-mapped from the checkpoint's file, not read, in its
dtype (`transformers` does so if no other is requested); then, block by block, they are converted and sharded, and each
process keeps its part.
"""

import warnings
from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tfew.devices.distributed import world_size
from tfew.errors import UserError

# neither this code nor transformers' blocks change a block's output in place
VIEW_NOTE = "(?s).*returned a view tensor. An in-place op on this view"


def convert_what_stays(model: nn.Module, dtype: torch.dtype) -> None:
    """Loads and converts all but the blocks' matrices: small, and needed by methods for initialisation or training."""
    matrices = {id(weight) for _, block in blocks(model) for weight in _matrices(block)}
    for parameter in model.parameters():
        if id(parameter) not in matrices:
            parameter.data = parameter.data.to(dtype, copy=True)


def shard(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Shards the blocks' frozen weights, after the method was attached. Raises UserError if none is frozen."""
    found = blocks(model)
    trained = [weight for _, block in found for weight in _matrices(block) if weight.requires_grad]
    if len(trained) == sum(len(list(_matrices(block))) for _, block in found):
        raise UserError(
            "trainer=fsdp shards the weights that are not trained, but this method= trains all of them: use"
            " trainer=ddp, or trainer=deepspeed_3."
        )
    warnings.filterwarnings("ignore", message=VIEW_NOTE)
    mesh = init_device_mesh(device.type, (world_size(),))
    for _, block in found:
        whole = {parameter for parameter in block.parameters() if parameter.requires_grad}
        for weight in _matrices(block):
            if weight not in whole:
                weight.data = weight.data.to(dtype)
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    for name in dict.fromkeys(name.rsplit(".", 2)[0] for name, _ in found):  # modules that run blocks in sequence
        stack = model.get_submodule(name)
        fully_shard(stack, mesh=mesh, ignored_params=set(_not_shared_out(stack)))
    model.to(device)


def blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The repeated blocks of the model by name, as declared by transformers."""
    kinds = set(getattr(model, "_no_split_modules", None) or [])
    found = [(name, module) for name, module in model.named_modules() if type(module).__name__ in kinds]
    if not found:
        raise UserError(f"trainer=fsdp finds no blocks to shard in {type(model).__name__}: use trainer=ddp.")
    return found


def _matrices(block: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for parameter in block.parameters() if parameter.dim() > 1)


def _not_shared_out(stack: nn.Module) -> Iterator[nn.Parameter]:
    from torch.distributed.tensor import DTensor

    return (parameter for parameter in stack.parameters() if not isinstance(parameter, DTensor))
