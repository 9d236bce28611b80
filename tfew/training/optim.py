"""Learning-rate schedule and clipping of the official recipe (`src/models/get_scheduler.py`; facts: golden/README)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR


def linear_decay_with_warmup(optimizer: torch.optim.Optimizer, steps: int, warmup_ratio: float) -> LambdaLR:
    """Factor step / w up to w = warmup_ratio * steps (a float, not rounded), then linear decay to 0 at `steps`.

    The very first step is therefore taken with learning rate 0, as in the official code.
    """
    warmup = warmup_ratio * steps

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        return max(0.0, (steps - step) / (steps - warmup))

    return LambdaLR(optimizer, factor)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scales all gradients together to a norm of at most `max_norm`; returns the norm before clipping."""
    return nn.utils.clip_grad_norm_(parameters, max_norm)
