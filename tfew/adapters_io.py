"""Adapter weights on disk: `adapter.safetensors` (the trained parameters and nothing else) and `adapter.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from tfew.errors import UserError, some
from tfew.methods.base import adapter_parameters
from tfew.records import write_atomically, write_bytes_atomically

WEIGHTS_FILE = "adapter.safetensors"
CONFIG_FILE = "adapter.json"
FORMAT_VERSION = 1


def save_adapter(folder: Path, model: nn.Module, method: Mapping[str, Any], base: Mapping[str, Any]) -> int:
    """Writes the trainable parameters and how they were made (method and base model); returns their size in bytes."""
    weights = {name: p.detach().cpu().contiguous() for name, p in adapter_parameters(model).items()}
    data = save(weights)
    write_bytes_atomically(folder / WEIGHTS_FILE, data)
    description = {"format_version": FORMAT_VERSION, "method": dict(method), "base": dict(base)}
    write_atomically(folder / CONFIG_FILE, json.dumps(description, indent=1) + "\n")
    return len(data)


def adapter_description(folder: Path) -> dict[str, Any]:
    """What `save_adapter` wrote beside the weights: the method to attach before they can be loaded."""
    path = folder / CONFIG_FILE
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no adapter ({CONFIG_FILE} is missing).") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from error


def load_adapter(folder: Path, model: nn.Module) -> None:
    """Copies saved weights into the trainable parameters; keys and shapes must fit exactly."""
    path = folder / WEIGHTS_FILE
    try:
        weights = load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no adapter ({WEIGHTS_FILE} is missing).") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    parameters = adapter_parameters(model)
    _check_fit(path, weights, parameters)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def _check_fit(path: Path, weights: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor]) -> None:
    in_file = {f"{name} {list(t.shape)}" for name, t in weights.items()}
    in_model = {f"{name} {list(t.shape)}" for name, t in parameters.items()}
    if in_file != in_model:
        raise UserError(
            f"{path} does not fit this model and method. Only in the file: {some(in_file - in_model)};"
            f" only in the model: {some(in_model - in_file)}."
        )
