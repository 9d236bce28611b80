"""A model ready to run, with its execution settings: built by `tfew.models.build`, used by all layers above."""

from dataclasses import dataclass

import torch
from torch import nn

from tfew.data.tokenization import PromptTokenizer
from tfew.methods.base import Method


@dataclass(frozen=True)
class Execution:
    """Device, dtype and memory settings with which a process runs a model."""

    device: torch.device
    dtype: torch.dtype  # of the frozen weights, when they are decoded if they are quantised
    uses_autocast: bool
    is_sharded: bool  # each process holds a part of the weights, so that all go through the model together
    engine: str
    memory_bytes: float | None  # beside the weights; None: as much as there is
    quantization: str | None = None  # "int8" or "nf4", of the linear layers' frozen weights

    def autocast(self) -> torch.autocast:
        """The context that forward passes run in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.uses_autocast)


@dataclass(frozen=True)
class LoadedModel:
    """A base model on its device, with its tokenizer and the attached method (None: no method)."""

    model: nn.Module
    prompt_tokenizer: PromptTokenizer
    execution: Execution
    base_parameters: int
    method: Method | None
    base_sample: str | None = None  # of the base's weights, see `weights_sample_sha256`


@dataclass(frozen=True)
class Trainable(LoadedModel):
    """A loaded model whose method is ready to be trained."""

    method: Method


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
