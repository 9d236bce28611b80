"""Adapter files of other projects: HF peft folders, and `.pt` files of the authors' T-Few code.

Reading executes no code: safetensors holds none, and pickles are read by torch's weights-only unpickler, which
refuses everything but tensors and plain containers. Each method interprets the tensors itself.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tfew.errors import UserError, shorten_list
from tfew.files.regular import read_text
from tfew.files.untrusted import check_archive, parse_json
from tfew.methods.peft_format import PeftAdapter

PEFT_CONFIG = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_OLD_WEIGHTS = "adapter_model.bin"  # a pickle, as peft wrote before safetensors


def read_peft(folder: Path) -> PeftAdapter:
    path = folder / PEFT_CONFIG
    try:
        config = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no settings but {type(config).__name__}.")
    return PeftAdapter(config, _peft_tensors(folder))


def write_peft(folder: Path, adapter: PeftAdapter, base: str | None, commit: str | None = None) -> None:
    """`base`: Hub id of the model that the adapter belongs to, where it has one, and its commit."""
    config = {**adapter.config, "base_model_name_or_path": base, "revision": commit}
    (folder / PEFT_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(_own_memory(adapter.tensors), folder / PEFT_WEIGHTS, metadata={"format": "pt"})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A pickled dictionary of tensors; anything else is refused, unexecuted."""
    try:
        check_archive(path)
        with warnings.catch_warnings():  # on pickle protocols it may not know: it refuses those anyway
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle make the unpickler raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is not a plain dictionary of tensors, so it was not loaded and none of it was run ({reason})."
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a plain dictionary of tensors but {type(found).__name__}.")
    wrong = {str(key) for key, value in found.items() if not isinstance(key, str) or not _is_plain(value)}
    if wrong or not found:
        raise UserError(f"{path} is not a plain dictionary of tensors; its wrong entries: {shorten_list(wrong)}.")
    return {key: value.detach() for key, value in found.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    torch.save(_own_memory(tensors), path)


def _peft_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / PEFT_WEIGHTS
    if not path.is_file() and (folder / PEFT_OLD_WEIGHTS).is_file():
        return read_tensors(folder / PEFT_OLD_WEIGHTS)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and value.is_floating_point()


def _own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies, so that no file holds more of a storage than its tensor."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
