"""Choices scored in parts, so that only one part's intermediate results are there at a time."""

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tfew.schema import Batch


def in_chunks(logprob: Callable[[Batch], Tensor], batch: Batch, parts: int) -> Tensor:
    """`logprob(batch)` as `[B, C, T]`, some choices at a time; each part is computed again when gradients are made."""

    def of_tensors(*tensors: Tensor) -> Tensor:
        return logprob(Batch(*tensors))

    # checkpoint looks among its arguments for tensors, to know whose generators draw dropout a second time
    scored = [
        checkpoint(of_tensors, *(getattr(part, field.name) for field in fields(part)), use_reentrant=False)
        if part.choice_mask.any()
        else torch.zeros(part.choice_mask.shape, device=part.choice_mask.device)
        for part in batch.by_choices(parts)
    ]
    return torch.cat(scored, dim=1)
