"""Execution settings of a run: device, dtype of the weights, and what processes share."""

import torch
from omegaconf import DictConfig
from torch import nn

from tfew.devices.cpu import warn_of_slow_bfloat16
from tfew.devices.distributed import local_rank_and_size, world_size
from tfew.errors import UserError
from tfew.methods.base import Method
from tfew.models.loaded_model import Execution
from tfew.models.quantization import QUANTIZED, quantize, torchao_for


def build_execution(config: DictConfig, device: torch.device, method: Method | None) -> Execution:
    dtype, autocast = weight_dtype(config, device, method), uses_autocast(config, device, method)
    if device.type == "cpu" and (autocast or dtype == torch.bfloat16):
        warn_of_slow_bfloat16()
    return Execution(
        device,
        dtype,
        autocast,
        shards_weights(config),
        config.engine,
        memory_bytes(config),
        quantization(config),
    )


def build_device(config: DictConfig) -> torch.device:
    wanted = config.trainer.accelerator
    if wanted == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer=gpu, but torch finds no GPU here; use trainer=cpu or trainer=auto.")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda") if world_size() == 1 else torch.device("cuda", local_rank_and_size()[0])


def memory_bytes(config: DictConfig) -> float | None:
    """`memory_gb=` in bytes; None: all available memory."""
    return None if config.memory_gb is None else 1e9 * config.memory_gb


def shards_weights(config: DictConfig) -> bool:
    """Whether weights are sharded over processes, so that all processes must run each forward pass together."""
    return config.trainer.strategy in ("fsdp", "deepspeed_3") and world_size() > 1


def uses_zero3(config: DictConfig) -> bool:
    """Whether trained parameters are sharded, too."""
    return config.trainer.strategy == "deepspeed_3" and world_size() > 1


def uses_autocast(config: DictConfig, device: torch.device, method: Method | None) -> bool:
    """Whether to use mixed precision over float32 weights, as the official code does; needed to train base weights."""
    return bool(config.trainer.get("autocast")) or (
        device.type == "cuda" and (config.fidelity.autocast or (method is not None and method.trains_base))
    )


def quantization(config: DictConfig) -> str | None:
    """ "int8" or "nf4", the form of linear layers' frozen weights; None: they have `weight_dtype` as well."""
    return config.model.dtype if config.model.dtype in QUANTIZED else None


def check_quantization(config: DictConfig, method: Method | None) -> None:
    """Raises UserError for combinations that are not possible, or were never tried."""
    if (kind := quantization(config)) is None:
        return
    if method is not None and not method.takes_quantized:
        raise UserError(
            f"model.dtype={kind} freezes the weights of linear layers, which method={config.method.name} changes: use"
            " another method=, or model.dtype=bfloat16."
        )
    if world_size() > 1:
        raise UserError(
            f"model.dtype={kind} is for one device, and this run has {world_size()}: set trainer.devices=1, or"
            " model.dtype=bfloat16."
        )


def check_quantizer(config: DictConfig) -> None:
    """Raises UserError if `quantize_model` will lack its library: to be known before a large model is loaded."""
    if kind := quantization(config):
        torchao_for(kind)


def quantize_model(config: DictConfig, model: nn.Module, device: torch.device) -> None:
    """With `model.dtype=int8|nf4`, before a method is attached, and after the base's weights were compared."""
    if kind := quantization(config):
        quantize(model, kind, device)


def weight_dtype(config: DictConfig, device: torch.device, method: Method | None) -> torch.dtype:
    """bfloat16 on a GPU (T5 in float16 overflows), float32 on a CPU and where autocast works over float32 weights. Of
    quantised weights, their dtype when decoded. Raises UserError if they cannot be quantised."""
    check_quantization(config, method)
    if config.model.dtype in ("bfloat16", "float32"):
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[config.model.dtype]
    return torch.bfloat16 if device.type == "cuda" and not uses_autocast(config, device, method) else torch.float32
