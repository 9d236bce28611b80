"""Partitions weights over processes (DeepSpeed's ZeRO 3), before Lightning sees them.

Weights are partitioned one after another, so that no process holds a full copy of the model.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

ZERO_3 = {"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1}


def partition(model: nn.Module, dtype: torch.dtype) -> None:
    """Partitions every weight; layers gather theirs when they run."""
    import deepspeed

    for module in model.modules():
        own = list(module.parameters(recurse=False))
        for weight in own:
            if not weight.requires_grad:
                weight.data = weight.data.to(dtype)
        deepspeed.zero.Init(module=nn.ParameterList(own), config_dict_or_path=ZERO_3)


def gather_parameters(parameters: Sequence[nn.Parameter]) -> AbstractContextManager[Any]:
    """A context in which these parameters are whole, on every process; all must enter it."""
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(list(parameters))
    return context
