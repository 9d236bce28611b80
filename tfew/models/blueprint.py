"""A run before anything is loaded: everything that its FLOPs and its memory are computed from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tfew.methods.base import Method
from tfew.models.loaded_model import Execution
from tfew.scoring.losses import LossConfig
from tfew.settings import EvaluationSettings, TrainingSettings


@dataclass(frozen=True)
class Blueprint:
    """`shape` builds the bare model on device "meta"; `optimizer`: class (`_target_`) and arguments."""

    model_name: str
    shape: Callable[[], nn.Module]
    method: Method | None
    execution: Execution
    optimizer: Mapping[str, Any]
    loss: LossConfig
    training: TrainingSettings
    evaluation: EvaluationSettings
