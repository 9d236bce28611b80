"""HF peft's file format for adapters: code that the import and export of all methods share.

A folder holds `adapter_config.json`, whose `target_modules` are full module names or endings of them, and
`adapter_model.safetensors`, whose keys begin with "base_model.model." (https://huggingface.co/docs/peft, checkpoint
format). peft itself is not imported: its file format is the interface.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tfew.errors import UserError

PREFIX = "base_model.model."


@dataclass(frozen=True)
class PeftAdapter:
    """A peft folder in memory: `adapter_config.json` and `adapter_model.safetensors`."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def common_config(peft_type: str, model: nn.Module) -> dict[str, Any]:
    """The keys of `adapter_config.json` that all methods have."""
    config: Any = model.config
    task = "SEQ_2_SEQ_LM" if config.is_encoder_decoder else "CAUSAL_LM"
    return {"peft_type": peft_type, "task_type": task, "inference_mode": True}


def target_names(model: nn.Module, names: Iterable[str], dotted: bool = True) -> list[str]:
    """Names that match exactly these modules: the last name part if it matches no other module, else full names.

    peft compares `target_modules` by whole name parts, but `feedforward_modules` and `modules_to_save` by endings of
    any kind (dotted=False), where "norm" would match "final_norm", too.
    """
    wanted = set(names)
    everything = [f".{name}" for name, _ in model.named_modules()]
    targets: list[str] = []
    for last, group in groupby(sorted(wanted, key=_last), key=_last):
        ending = f".{last}" if dotted else last
        caught = {name[1:] for name in everything if name.endswith(ending)}
        targets += [last] if caught <= wanted else sorted(group)
    return targets


def is_transposed(model: nn.Module, names: Iterable[str]) -> bool:
    """Whether these layers are GPT-2's Conv1D, for which peft needs `fan_in_fan_out`."""
    return any(isinstance(model.get_submodule(name), Conv1D) for name in names)


def number(adapter: PeftAdapter, key: str) -> float:
    value = adapter.config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise UserError(f"adapter_config.json says {key}={value!r}, which is not a number above 0.")
    return value


def _last(name: str) -> str:
    return name.rpartition(".")[2]
