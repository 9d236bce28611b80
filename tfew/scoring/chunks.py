"""Scores a batch in parts: by choices, so that only one part's intermediate results are in memory at a time; or by
examples of similar length, to keep padding small."""

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint

from tfew.schema import Batch

# cost of one more forward pass, in tokens of padding: smaller matrix products, and on a GPU kernel launches
PASS_TOKENS = {"cpu": 32, "cuda": 2048}


def in_chunks(logprob: Callable[[Batch], Tensor], batch: Batch, parts: int) -> Tensor:
    """`logprob(batch)` as `[B, C, T]`, some choices at a time; each part is recomputed in the backward pass."""

    def of_tensors(*tensors: Tensor) -> Tensor:
        return logprob(Batch(*tensors))

    # checkpoint looks among its arguments for tensors, to know whose generators draw dropout a second time
    scored = [
        checkpoint(of_tensors, *(getattr(part, field.name) for field in fields(part)), use_reentrant=False)
        if part.choice_mask.any()
        else _of_no_choice(part)
        for part in batch.by_choices(parts)
    ]
    return torch.cat(scored, dim=1)


def in_groups_of_like_length(logprob: Callable[[Batch], Tensor], batch: Batch, model: nn.Module) -> Tensor:
    """`logprob(batch)` as `[B, C, T]`, with examples of similar length computed together.

    Not with sharded weights (FSDP2): all devices must run the same number of forward passes.
    """
    length_B = batch.input_mask.sum(-1) + batch.choice_mask.sum((1, 2))
    device = next(model.parameters()).device  # in a forecast the batch is on another device
    groups = [] if isinstance(model, FSDPModule) else length_groups(length_B.tolist(), pass_tokens(device))
    if len(groups) < 2:
        return logprob(batch)
    scored = []
    for group in groups:
        part = batch.chosen(torch.tensor(group, device=length_B.device))
        width = int(part.input_mask.sum(-1).max())
        part = replace(part, input_ids=part.input_ids[:, :width], input_mask=part.input_mask[:, :width])
        scored.append(logprob(part) if part.choice_mask.any() else _of_no_choice(part))
    order_B = torch.tensor([place for group in groups for place in group], device=length_B.device)
    return torch.cat(scored)[order_B.argsort()]


def _of_no_choice(part: Batch) -> Tensor:
    return torch.zeros(part.choice_mask.shape, device=part.choice_mask.device)


def pass_tokens(device: torch.device) -> int:
    """What one more pass costs on this device, in tokens of padding."""
    return PASS_TOKENS.get(device.type, PASS_TOKENS["cuda"])


def length_groups(lengths: list[int], pass_tokens: int) -> list[list[int]]:
    """Indices of the rows of each group, with minimal padding, where each group costs `pass_tokens` more tokens."""
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    longest = np.array([lengths[place] for place in order])
    best, first = np.zeros(len(order) + 1), np.zeros(len(order) + 1, dtype=int)
    for end in range(1, len(order) + 1):  # for the `end` longest rows: the cheapest first row of the last group
        starts = np.arange(end)
        costs = best[:end] + (end - starts) * longest[:end] + pass_tokens
        first[end] = int(costs.argmin())
        best[end] = costs[first[end]]
    groups, end = [], len(order)
    while end:
        groups.append(order[first[end] : end])
        end = int(first[end])
    return groups[::-1]
