"""An optimiser from its settings."""

from collections.abc import Mapping
from typing import Any

import torch
from hydra.utils import get_class
from torch import nn

from tfew.errors import UserError


def optimizer_from(description: Mapping[str, Any], parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """`description`: the class as `_target_`, and its arguments."""
    arguments = dict(description)
    target = arguments.pop("_target_")
    try:
        return get_class(target)(parameters, **arguments)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"optimizer= {target} does not take these settings ({arguments}): {error}.") from error
