"""A dry run of a training step and a scoring pass: their memory and FLOPs, from shapes alone.

torch's fake tensors have a shape, a dtype and a device, but no data. They pass through the same code as real tensors,
so attention's kernel, the tensors saved by autograd and the work that the engine shares are those of a real run.
Token ids are real, since the engine's shapes depend on them. A real model passes through the same functions and gives
the same counts, which the tests compare.

Not counted: temporary memory inside kernels, and an allocator's rounding.
"""

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers.integrations import moe

from tfew.kernels.dropout import fast_dropout
from tfew.methods.base import adapter_parameters
from tfew.schema import Batch
from tfew.scoring.losses import LossConfig, counts, loss_terms
from tfew.scoring.memory_budget import SavedBytes, counting_saved_tensors
from tfew.scoring.score import token_logprob
from tfew.training.optim import clip_gradients


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


# attention's kernel on a CPU, which torch's counter does not support; its operands are those of the supported kernels
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


COPIES_INSIDE = (torch.ops.aten.logsumexp.default,)  # operations that hold a copy of their input while they run


@dataclass(frozen=True)
class Counted:
    """Counts of one optimiser step or scoring pass; bytes exclude all weights, including the adapter's.

    `flops`: two per multiply-add, of matrix products and attention, by torch's own counter. `kept_bytes`: the most that
    is saved for a backward pass, of one micro-batch. `gradient_bytes`, `optimizer_bytes`: what persists between steps.
    `peak_bytes`: the peak, including all of these and garbage that is not yet collected.
    """

    flops: int
    peak_bytes: int
    kept_bytes: int = 0
    gradient_bytes: int = 0
    optimizer_bytes: int = 0


def without_numbers(model: nn.Module, device: torch.device) -> nn.Module:
    """Replaces each parameter and buffer, in place, by a fake tensor on this device; shared ones stay shared."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor | None) -> Tensor | None:
        if tensor is not None and id(tensor) not in made:
            with mode:
                empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
            is_parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
        return None if tensor is None else made[id(tensor)]

    for module in list(model.modules()):
        tensors: Any
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: fake(tensor) for name, tensor in tensors.items()})
    return model


@dataclass(frozen=True)
class Recipe:
    """How a batch is computed; as in `tfew.training.module` and `tfew.scoring.score`."""

    loss: LossConfig
    engine: str
    micro_batch_size: int | None = None
    autocast: bool = False


MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Watch = Callable[[], AbstractContextManager[Any]]


def training_step(model: nn.Module, batch: Batch, optimizer: "OptimizerBytes", recipe: Recipe) -> Counted:
    """Counts of one step that is not the first, so that the optimiser's state exists."""
    flop_counter, held, kept = _flop_counter(), HeldBytes(_tensors(model, batch)), list[SavedBytes]()

    @contextmanager
    def watch() -> Iterator[None]:
        with counting_saved_tensors(model) as of_micro_batch:
            kept.append(of_micro_batch)
            yield

    with _collector_off(), _one_expert_for_all(model), flop_counter, held:
        make_gradients(model, batch, recipe, watch)
        in_step = held.now + optimizer.passing
    gradient_bytes = sum(p.grad.nbytes for p in adapter_parameters(model).values() if p.grad is not None)
    return Counted(
        flops=flop_counter.get_total_flops(),
        peak_bytes=max(held.peak, in_step) + optimizer.state,
        kept_bytes=max(of_micro_batch.bytes for of_micro_batch in kept),
        gradient_bytes=gradient_bytes,
        optimizer_bytes=optimizer.state,
    )


def scoring_pass(model: nn.Module, batch: Batch, recipe: Recipe) -> Counted:
    flop_counter, held = _flop_counter(), HeldBytes(_tensors(model, batch))
    with _collector_off(), _one_expert_for_all(model), flop_counter, held:
        score(model, batch, recipe)
    return Counted(flop_counter.get_total_flops(), held.peak)


def make_gradients(model: nn.Module, batch: Batch, recipe: Recipe, watch: Watch = nullcontext) -> None:
    """An optimiser step without the optimiser's update; `watch` is the context of each forward pass."""
    model.train()
    model.zero_grad()
    total = counts(batch)
    with _mixed(batch, recipe), fast_dropout(batch.label.device):
        for micro in batch.split(recipe.micro_batch_size or len(batch)):
            with watch():
                logprob = token_logprob(model, micro, recipe.engine)
                loss = loss_terms(logprob, micro, recipe.loss, total)["loss"]
            loss.backward()
            del logprob, loss
        clip_gradients(adapter_parameters(model).values(), 1.0)


def score(model: nn.Module, batch: Batch, recipe: Recipe) -> None:
    model.eval()
    # not inference mode, in which torch decomposes operations below autocast, where they lack its dtypes
    with torch.no_grad(), _mixed(batch, recipe):
        token_logprob(model, batch, recipe.engine)


@dataclass(frozen=True)
class OptimizerBytes:
    """The optimiser's persistent state, and its temporary memory during a step.

    The second is that of the largest parameter: they are updated one after the other. (Except for AdamW on a GPU, which
    updates all at once, and needs as much again as is trained.)
    """

    state: int
    passing: int


def optimizer_bytes(parameters: Iterable[nn.Parameter], make_optimizer: MakeOptimizer) -> OptimizerBytes:
    """Counted in two steps on fake parameters, one for each distinct shape."""
    kinds = Counter((parameter.shape, parameter.dtype, parameter.device) for parameter in parameters)
    state, passing = 0, [0]
    for (shape, dtype, device), count in kinds.items():
        with FakeTensorMode():
            parameter = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
            parameter.grad = torch.empty_like(parameter)
            optimizer = make_optimizer([parameter])
            optimizer.step()
            kept = [value for value in optimizer.state[parameter].values() if isinstance(value, Tensor)]
            with HeldBytes([parameter, parameter.grad, *kept]) as held:
                optimizer.step()
        state += count * sum(tensor.nbytes for tensor in kept)
        passing.append(held.peak)
    return OptimizerBytes(state, max(passing))


class HeldBytes(TorchDispatchMode):
    """Counts allocations of operations and what of them is still alive; `known` tensors existed before."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, result)
        if func in COPIES_INSIDE:
            self.peak = max(self.peak, self.now + args[0].nbytes)
        return result

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen.add(storage)
            weakref.finalize(storage, self._free, storage.nbytes())
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
        return tensor

    def _free(self, size: int) -> None:
        self.now -= size


@contextmanager
def _collector_off() -> Iterator[None]:
    """Disables Python's garbage collector: tensors recomputed by torch's `checkpoint` are in reference cycles, and the
    collector would free them earlier in one count than in the next."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def _one_expert_for_all(model: nn.Module) -> Iterator[None]:
    """Uses one expert's matrix for all rows of fake tensors, whose values do not matter: torch's grouped product of
    fake tensors supports 16 bits only.
    """
    if not isinstance(next(model.parameters()), FakeTensor):
        yield
        return
    grouped = moe._grouped_mm
    moe._grouped_mm = lambda x_SI, weight_EIO, offs: x_SI.to(weight_EIO.dtype) @ weight_EIO[0]
    try:
        yield
    finally:
        moe._grouped_mm = grouped


def _flop_counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)


def _mixed(batch: Batch, recipe: Recipe) -> Any:
    return torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=recipe.autocast)


def _tensors(model: nn.Module, batch: Batch) -> list[Tensor]:
    of_batch = [tensor for tensor in vars(batch).values() if tensor is not None]
    return [*model.parameters(), *model.buffers(), *of_batch]
