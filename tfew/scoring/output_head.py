"""Computes logits from a model's last states.

In most models that is one matrix. Some scale or cap its output (`logits_scaling`, `logit_scale`,
`final_logit_softcapping`), scale its input, or add a bias outside any layer: there are too many ways to list. So a
few random states are passed through the matrix alone and through the model's own `forward` without its stack of
layers; if the logits differ, the model's own `forward` is used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers.modeling_outputs import BaseModelOutput

PROBE_STATES, PROBE_SIZE = 4, 10.0  # large enough to show a cap


class Head(Protocol):
    """Computes logits `[..., V]` from states `[..., D]`; `weight` has a row for each token."""

    weight: Any

    def __call__(self, state_MD: Tensor) -> Tensor: ...


class OwnHead:
    """The model's own computation of logits from the states of its stack of layers."""

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
    """The output matrix if that is enough, else the model's own computation; tested once per model."""
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
        return True  # its layers cannot be left out
    finally:
        model.train(was_training)


class _Given(BaseModelOutput):
    """States that replace a stack's output; all other attributes are None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


@contextmanager
def _stack_gives(model: Any, state_1MD: Tensor) -> Iterator[None]:
    """Replaces the stack's output by these states; raises RuntimeError if the model does not call its stack."""
    others = (None, model, model.get_output_embeddings())  # `get_decoder` may return the output matrix
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
        raise RuntimeError(f"{type(model).__name__} computes its logits without its stack of layers")
