"""Models without memory for their weights (device "meta"), for counting, from a configuration or a checkpoint."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tfew.environment.versions import check_versions
from tfew.errors import UserError
from tfew.models.backbone import checkpoint_config, give_own_head, has_own_head, is_trusted, loading_lock, one_line


def config_of(values: Mapping[str, Any]) -> Any:
    """transformers' configuration with these values of a config.json; `model_type` names the class."""
    arguments = dict(values)
    kind = arguments.pop("model_type", None)
    try:
        return AutoConfig.for_model(kind, **arguments)
    except (ValueError, TypeError, AttributeError, KeyError, StrictDataclassError) as error:
        raise UserError(f"model.config= is no configuration of transformers: {one_line(error)}") from error


def shape_of_config(values: Mapping[str, Any]) -> nn.Module:
    """A model of these values; unties the output head if they ask for it, which not every class does by itself."""
    model = _shape(config_of(values), trust=False)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()  # type: ignore[operator]
    if values.get("tie_word_embeddings") is False and head.weight is embeddings.weight:
        with torch.device("meta"):
            give_own_head(model)
    return model


def shape_like(model: nn.Module) -> nn.Module:
    """A copy of a loaded model."""
    tensors: dict[int, Any] = {id(p): nn.Parameter(_empty(p), requires_grad=False) for p in model.parameters()}
    tensors.update((id(buffer), _empty(buffer)) for buffer in model.buffers())
    return copy.deepcopy(model, tensors)  # it copies nothing that it is given already


def _empty(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def shape_at(path: str, revision: str, trusted: str | None = None) -> nn.Module:
    """A checkpoint's model, from its config.json alone."""
    config = checkpoint_config(path, revision, trusted)
    try:
        return _shape(config, is_trusted(path, trusted))
    except ValueError as error:  # of a kind that transformers has no such model of
        raise UserError(f"model.path={path} is no model that can be scored: {one_line(error)}") from error


def _shape(config: Any, trust: bool) -> nn.Module:
    check_versions()
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with loading_lock, torch.device("meta"):
        model: nn.Module = kind.from_config(config, trust_remote_code=trust)
        if has_own_head(config):
            give_own_head(model)
    return model.eval()
