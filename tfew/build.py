"""The only place where model, tokenizer, method and adapter weights meet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from omegaconf import DictConfig
from torch import nn

from tfew.adapters_io import adapter_description, load_weights
from tfew.backbone import load_model, load_tokenizer, random_model
from tfew.config import resolved
from tfew.errors import UserError
from tfew.methods.base import Method, attach

# keys of a method's YAML that are not its arguments: its name and the recipe that train.yaml takes from it
NOT_ARGUMENTS = ("name", "_target_", "steps", "lr", "scale_parameter")


def build_tokenizer(config: DictConfig) -> Any:
    """`model.tokenizer`, else the checkpoint's own, else bytes."""
    return load_tokenizer(config.model.tokenizer or config.model.path, config.model.revision)


def build_backbone(config: DictConfig, tokenizer: Any, device: torch.device) -> nn.Module:
    """The frozen model on its device: a checkpoint, or random weights of the shape `model.arch`."""
    if config.model.path is None and config.model.arch is None:
        raise UserError(f"model={config.model.name} has neither model.path nor model.arch.")
    dtype = _dtype(config, device)
    if config.model.path is None:
        model = random_model(resolved(config.model.arch), len(tokenizer)).to(dtype)
    else:
        model = load_model(config.model.path, config.model.revision, dtype)
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    if len(tokenizer) > rows:
        raise UserError(f"The tokenizer has {len(tokenizer)} tokens, the model only {rows} embedding rows.")
    return model.requires_grad_(False).to(device)


def attach_method(config: DictConfig, model: nn.Module, tokenizer: Any) -> Method:
    """Attaches `method=` for training, with seeded starting values or those of `init_adapter=`."""
    method = build_method(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        attach(method, model)
        if config.init_adapter is None:
            method.initialise(model, tokenizer)
    if config.init_adapter is not None:
        restore(method, model, Path(config.init_adapter))
    return method


def attach_saved(folder: Path, model: nn.Module) -> tuple[str, Method]:
    """Attaches the method that a saved adapter was made with and loads its weights; returns the method's name, too."""
    description = adapter_description(folder)["method"]
    if not str(description.get("_target_", "")).startswith("tfew.methods."):
        raise UserError(f"{folder} names a method that is none of this project's: {description.get('_target_')!r}.")
    method = make_method(description)
    attach(method, model)
    restore(method, model, folder)
    return str(description["name"]), method


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


def make_method(description: Mapping[str, Any]) -> Method:
    arguments = {key: value for key, value in description.items() if key not in NOT_ARGUMENTS}
    kind = get_class(description["_target_"])
    if not issubclass(kind, Method):
        raise UserError(f"method._target_={description['_target_']} is not a tfew.methods.base.Method.")
    return kind(**arguments)


def _dtype(config: DictConfig, device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU (T5 in float16 overflows), float32 on a CPU and where autocast works over float32 weights."""
    if config.model.dtype != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[config.model.dtype]
    return torch.bfloat16 if device.type == "cuda" and not config.fidelity.autocast else torch.float32
