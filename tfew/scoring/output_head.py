"""From a model's last states to its logits.

For most models that is one matrix. Some multiply or cap what comes out of it (`logits_scaling`, `logit_scale`,
`final_logit_softcapping`), scale what goes in, or add a bias that is no layer's: there are too many ways to list. So a
few random states are sent both ways, through the matrix alone and through the model's own `forward` with its stack of
layers left out; where the logits are not the same numbers, the model's own way is taken.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers.modeling_outputs import BaseModelOutput

PROBE_STATES, PROBE_SIZE = 4, 10.0  # so large that a cap shows


class Head(Protocol):
    """Makes logits `[..., V]` of states `[..., D]`; `weight` has a row for each token."""

    weight: Any

    def __call__(self, state_MD: Tensor) -> Tensor: ...


class OwnHead:
    """The model's own way from the states of its stack of layers to its logits."""

    def __init__(self, model: Any) -> None:
        self.model, self.weight = model, model.get_output_embeddings().weight

    def __call__(self, state_MD: Tensor) -> Tensor:
        ids_1M = torch.zeros(1, len(state_MD), dtype=torch.long, device=state_MD.device)
        inputs = {"input_ids": ids_1M}
        if self.model.config.is_encoder_decoder:
            inputs = {"decoder_input_ids": ids_1M, "encoder_outputs": BaseModelOutput(state_MD[None, :1])}  # unused
        with _stack_gives(self.model, state_MD[None]):
            logits_MV: Tensor = self.model(**inputs, use_cache=False).logits[0]
        return logits_MV


_is_matrix: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()


def output_head(model: Any) -> Head:
    """The output matrix where that is all, else the model's own way; tried once a model."""
    head: Any = model.get_output_embeddings()
    if model not in _is_matrix:
        _is_matrix[model] = isinstance(head.weight, FakeTensor) or _gives_the_logits(model, head)
    return head if _is_matrix[model] else OwnHead(model)


def _gives_the_logits(model: Any, head: Any) -> bool:
    generator = torch.Generator().manual_seed(0)
    state_MD = PROBE_SIZE * torch.randn(PROBE_STATES, head.weight.shape[-1], generator=generator)
    state_MD = state_MD.to(head.weight.device, head.weight.dtype)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return torch.equal(head(state_MD[None])[0], OwnHead(model)(state_MD))
    except (ValueError, TypeError, IndexError, RuntimeError, AttributeError):
        return True  # it does not let its layers be left out
    finally:
        model.train(was_training)


class _Given(BaseModelOutput):
    """States in place of a stack's output; whatever else it would have is not there."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


@contextmanager
def _stack_gives(model: Any, state_1MD: Tensor) -> Iterator[None]:
    """Raises RuntimeError where the model does not ask its stack."""
    others = (None, model, model.get_output_embeddings())  # what is called the decoder may be the output matrix
    stacks = [stack for stack in (model.base_model, model.get_decoder()) if not any(stack is one for one in others)]
    asked = []

    def give(*_: Any, **__: Any) -> _Given:
        asked.append(True)
        return _Given(last_hidden_state=state_1MD)

    before = [vars(stack).get("forward") for stack in stacks]
    for stack in stacks:
        stack.forward = give
    try:
        yield
    finally:
        for stack, forward in zip(stacks, before, strict=True):
            vars(stack).pop("forward", None)
            if forward is not None:
                stack.forward = forward
    if not asked:
        raise RuntimeError(f"{type(model).__name__} makes its logits without its stack of layers")
