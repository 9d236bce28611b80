"""Adapter weights on disk: `adapter.safetensors` (what the method stores) and `adapter.json`."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfew.errors import UserError
from tfew.files.atomic import write_atomically, write_bytes_atomically
from tfew.files.checksums import check_sha256, from_checked_json, to_checked_json
from tfew.files.regular import open_regular, read_text

if TYPE_CHECKING:  # a description is read before anything heavy is imported
    from torch import Tensor

WEIGHTS_FILE = "adapter.safetensors"
CONFIG_FILE = "adapter.json"
TEMPERATURE_FILE, TEMPERATURE = "temperature.json", "temperature"  # the latter in adapter.json, of a published adapter
FORMAT_VERSION = 1
EARLIER_SCORING = {"eos": "include", "chat": False}  # of adapters that do not say
WEIGHTS_SHA256 = "weights_sha256"


def save_adapter(
    folder: Path,
    weights: Mapping[str, "Tensor"],
    method: Mapping[str, Any],
    base: Mapping[str, Any],
    scoring: Mapping[str, Any] | None = None,
) -> int:
    """Writes the method's weights and a description: method, base model and, if known, how the loss scored choices.

    Returns the size of the weights' file in bytes.
    """
    from safetensors.torch import save

    data = save({name: tensor.cpu().contiguous() for name, tensor in weights.items()})
    write_bytes_atomically(folder / WEIGHTS_FILE, data)
    description = {
        "format_version": FORMAT_VERSION,
        "method": dict(method),
        "base": dict(base),
        **({} if scoring is None else {"scoring": dict(scoring)}),
        WEIGHTS_SHA256: hashlib.sha256(data).hexdigest(),
    }
    write_atomically(folder / CONFIG_FILE, to_checked_json(description))
    return len(data)


def adapter_description(folder: Path) -> dict[str, Any]:
    """The description that `save_adapter` wrote, with the method that must be attached before loading the weights."""
    path = folder / CONFIG_FILE
    try:
        description = from_checked_json(read_text(path))
        if description["format_version"] != FORMAT_VERSION or not {"method", "base"} <= description.keys():
            raise UserError(f"{path} has a different format from this version's ({FORMAT_VERSION}).")
        return description
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no adapter ({CONFIG_FILE} is missing).") from error
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path} does not describe an adapter of this project: {error}.") from error


def adapter_scoring(folder: Path) -> dict[str, Any]:
    """How the adapter's loss scored choices: `eos`, "include" or "exclude", and `chat`, whether inputs were turns."""
    scoring = {**EARLIER_SCORING, **dict(adapter_description(folder).get("scoring") or {})}
    if scoring["eos"] not in ("include", "exclude") or not isinstance(scoring["chat"], bool):
        raise UserError(f"{folder / CONFIG_FILE} does not say how its adapter scores choices: {scoring}.")
    return scoring


def save_temperature(folder: Path, calibration: Mapping[str, Any], norm: str, eos: str = "include") -> None:
    """Writes the temperature fitted to held-out predictions; it is valid for scores with this norm and `eos` only."""
    write_atomically(folder / TEMPERATURE_FILE, to_checked_json({"norm": norm, "eos": eos, **calibration}))


def load_temperature(folder: Path, norm: str, eos: str = "include") -> float | None:
    """The temperature that `save_temperature` wrote; None if there is none for this norm and `eos`."""
    path = folder / TEMPERATURE_FILE
    try:
        if (saved := saved_temperature(folder)) is None:
            return None
        temperature = float(saved["temperature"])
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature {temperature} is not above 0")
        is_of = (saved["norm"], saved.get("eos", "include")) == (norm, eos)
        return temperature if is_of and saved["ece_calibrated"] is not None else None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path} does not hold an adapter's temperature: {error}; delete it to do without.") from error


def load_thresholds(folder: Path, norm: str, eos: str = "include") -> dict[str, float] | None:
    """For multi-label tasks, the minimum probability of each label; None in the same cases as `load_temperature`."""
    path = folder / TEMPERATURE_FILE
    try:
        saved = saved_temperature(folder)
        if saved is None or (saved["norm"], saved.get("eos", "include")) != (norm, eos) or "thresholds" not in saved:
            return None
        thresholds = {str(name): float(value) for name, value in saved["thresholds"].items()}
        if wrong := [value for value in thresholds.values() if not 0 <= value <= 1]:
            raise ValueError(f"threshold {wrong[0]} is not a probability")
        return thresholds
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path} does not hold an adapter's thresholds: {error}; delete it to do without.") from error


def saved_temperature(folder: Path) -> dict[str, Any] | None:
    """Everything that `save_temperature` wrote; raises ValueError for a damaged file."""
    path = folder / TEMPERATURE_FILE
    if path.exists():
        return dict(from_checked_json(read_text(path)))
    return adapter_description(folder).get(TEMPERATURE) if (folder / CONFIG_FILE).is_file() else None


def load_weights(folder: Path) -> dict[str, "Tensor"]:
    """The tensors that `save_adapter` wrote; raises UserError if they are damaged or not all finite."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _weights_file(folder)
    if (folder / CONFIG_FILE).is_file():
        check_sha256(path, adapter_description(folder).get(WEIGHTS_SHA256), "Copy or download it again.")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, RuntimeError, MemoryError) as error:  # too large to map is one
        raise UserError(f"{path} cannot be read: {error}.") from error
    if bad := next((name for name, tensor in weights.items() if not tensor.float().isfinite().all()), None):
        raise UserError(f"{path} holds weights that are NaN or infinite ({bad}): its scores would be NaN.")
    return weights


def load_shapes(folder: Path) -> dict[str, "Tensor"]:
    """The same as empty tensors on device "meta", read from the file's header alone."""
    import torch
    from safetensors import SafetensorError, safe_open

    path = _weights_file(folder)
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, MemoryError) as error:  # too large to map is one
        raise UserError(f"{path} cannot be read: {error}.") from error


def _weights_file(folder: Path) -> Path:
    path = folder / WEIGHTS_FILE
    try:
        open_regular(path).close()
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no adapter ({WEIGHTS_FILE} is missing).") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    return path
