"""The only place where model, tokenizer, method and adapter weights meet."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from omegaconf import DictConfig
from torch import nn

from tfew.adapters_io import adapter_description, load_weights
from tfew.backbone import is_encoder_decoder, load_model, load_tokenizer, random_model
from tfew.config import model_name, resolved
from tfew.data.loader import Encoder
from tfew.errors import UserError
from tfew.methods.base import Method, adapter_parameters, attach

log = logging.getLogger(__name__)

# keys of a method's YAML that are not its arguments: its name and the recipe that train.yaml takes from it
NOT_ARGUMENTS = ("name", "_target_", "steps", "lr", "scale_parameter")


def build_encoder(config: DictConfig) -> Encoder:
    """`model.tokenizer`, else the checkpoint's own, else bytes; for the kind of model that `model.path` is."""
    decoder_only = config.model.path is not None and not is_encoder_decoder(config.model.path, config.model.revision)
    path = config.model.tokenizer or config.model.path
    return Encoder(load_tokenizer(path, config.model.revision, decoder_only), config.max_tokens, decoder_only)


def build_backbone(config: DictConfig, tokenizer: Any, device: torch.device, method: Method | None = None) -> nn.Module:
    """The frozen model on its device: a checkpoint, or random weights of the shape `model.arch`.

    The method that will be attached (None: nothing is) has a say in the type of the weights.
    """
    if config.model.path is None and config.model.arch is None:
        raise UserError(f"model={config.model.name} has neither model.path nor model.arch.")
    dtype = _dtype(config, device, method)
    if config.model.path is None:
        model = random_model(resolved(config.model.arch), len(tokenizer)).to(dtype)
    else:
        model = load_model(config.model.path, config.model.revision, dtype)
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    if len(tokenizer) > rows:
        raise UserError(f"The tokenizer has {len(tokenizer)} tokens, the model only {rows} embedding rows.")
    return model.requires_grad_(False).to(device)


def attach_method(config: DictConfig, method: Method, model: nn.Module, tokenizer: Any) -> None:
    """Attaches the method for training, with seeded starting values or those of `init_adapter=`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        attach(method, model)
        if config.init_adapter is None:
            method.initialise(model, tokenizer)
    if config.init_adapter is not None:
        restore(method, model, Path(config.init_adapter))
    make_optimizer(config, list(adapter_parameters(model).values()))  # a bad setting is said before the run starts


def make_optimizer(config: DictConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    arguments = resolved(config.optimizer)
    target = arguments.pop("_target_")
    try:
        return get_class(target)(parameters, **arguments)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"optimizer= {target} does not take these settings ({arguments}): {error}.") from error


def saved_method(folder: Path, config: DictConfig) -> tuple[str, Method]:
    """Name and method that a saved adapter was made with; it is attached and restored by `attach_saved`."""
    saved = adapter_description(folder)
    description = saved["method"]
    if saved["base"] != base_of(config):
        log.info(f"Note: {folder} was trained on {saved['base']}, and is used on {base_of(config)}.")
    if not str(description.get("_target_", "")).startswith("tfew.methods."):
        raise UserError(f"{folder} names a method that is none of this project's: {description.get('_target_')!r}.")
    return str(description["name"]), make_method(description)


def attach_saved(folder: Path, method: Method, model: nn.Module) -> None:
    attach(method, model)
    restore(method, model, folder)


def restore(method: Method, model: nn.Module, folder: Path) -> None:
    try:
        method.restore(model, load_weights(folder))
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error


def build_method(config: DictConfig) -> Method:
    """`method=`, checked against the optimiser's settings."""
    method = make_method(resolved(config.method))
    method.check_optimizer(resolved(config.optimizer))
    return method


def build_device(config: DictConfig) -> torch.device:
    wanted = config.trainer.accelerator
    if wanted == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer=gpu, but torch finds no GPU here; use trainer=cpu or trainer=auto.")
    return torch.device("cuda" if wanted in ("auto", "gpu") and torch.cuda.is_available() else "cpu")


def base_of(config: DictConfig) -> dict[str, Any]:
    """What an adapter says of the model that it belongs to."""
    return {"name": model_name(config), "path": config.model.path}


def make_method(description: Mapping[str, Any]) -> Method:
    arguments = {key: value for key, value in description.items() if key not in NOT_ARGUMENTS}
    try:
        kind = get_class(description["_target_"])
    except Exception as error:
        raise UserError(f"There is no method {description['_target_']!r} (method._target_).") from error
    if not issubclass(kind, Method):
        raise UserError(f"method._target_={description['_target_']} is not a tfew.methods.base.Method.")
    return kind(**arguments)


def uses_autocast(config: DictConfig, device: torch.device, method: Method | None) -> bool:
    """Mixed precision over float32 weights: the official way, and the way to train weights of the base."""
    return device.type == "cuda" and (config.fidelity.autocast or (method is not None and method.trains_base))


def _dtype(config: DictConfig, device: torch.device, method: Method | None) -> torch.dtype:
    """bfloat16 on a GPU (T5 in float16 overflows), float32 on a CPU and where autocast works over float32 weights."""
    if config.model.dtype != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[config.model.dtype]
    return torch.bfloat16 if device.type == "cuda" and not uses_autocast(config, device, method) else torch.float32
