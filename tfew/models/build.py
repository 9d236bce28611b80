"""The only place where model, tokenizer, method and adapter weights meet."""

import copy
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from tfew.config import resolved
from tfew.data.tokenization import PromptTokenizer
from tfew.devices.sharding import convert_what_stays, shard
from tfew.errors import UserError
from tfew.files.hub_adapter import local_adapter
from tfew.methods.base import Method, adapter_parameters, attach, check_fit
from tfew.models.adapters_io import CONFIG_FILE, adapter_description, load_shapes, load_weights
from tfew.models.backbone import is_encoder_decoder, load_model, load_tokenizer, one_line, random_model, shape_of
from tfew.models.base_check import base_of, check_base, check_weights, unlike_base
from tfew.models.blueprint import Blueprint
from tfew.models.checkpoint_path import checkpoint_path, tokenizer_path
from tfew.models.execution import (
    build_device,
    build_execution,
    check_quantizer,
    quantization,
    quantize_model,
    shards_weights,
    uses_zero3,
    weight_dtype,
)
from tfew.models.loaded_model import LoadedModel, Trainable, parameter_count
from tfew.models.method_builder import make_method, method_arguments
from tfew.models.optimizer_builder import optimizer_from
from tfew.models.scoring_rule import with_scoring_rule
from tfew.models.shapes import shape_at, shape_like, shape_of_config
from tfew.models.weights_sample import weights_sample_sha256
from tfew.runs.identity import differences, identity, is_known_checkpoint, model_name
from tfew.runs.model_source import model_source, tokenizer_revision
from tfew.runs.noted import note_sample
from tfew.scoring.losses import LossConfig
from tfew.settings import EvaluationSettings, FidelitySettings, TrainingSettings, settings

log = logging.getLogger(__name__)


def build_blueprint(config: DictConfig, method: Method | None, device: torch.device, tokens: int = 0) -> Blueprint:
    """`tokens`: of the tokenizer, which a model with random weights has embeddings for."""
    return Blueprint(
        model_name(config),
        partial(build_shape, config, tokens),
        method,
        build_execution(config, device, method),
        resolved(config.optimizer),
        LossConfig.from_settings(config.loss, settings(FidelitySettings, config).unlikely_epsilon),
        settings(TrainingSettings, config),
        settings(EvaluationSettings, config),
    )


def build_trainable(config: DictConfig, prompt_tokenizer: PromptTokenizer | None = None) -> Trainable:
    """With this tokenizer if it is already built; raises UserError if model, method and settings do not fit."""
    device, method = build_device(config), build_method(config)
    prompt_tokenizer = prompt_tokenizer or build_tokenizer(config)
    check_quantizer(config)
    model = build_backbone(config, prompt_tokenizer.tokenizer, device, method)
    base_parameters, sample = parameter_count(model), weights_sample_sha256(model)
    note_sample(config, sample)
    quantize_model(config, model, device)
    attach_method(config, method, model, prompt_tokenizer.tokenizer)
    shard_model(config, model, device, method)
    execution = build_execution(config, device, method)
    return Trainable(model, prompt_tokenizer, execution, base_parameters, method, sample)


def build_for_scoring(
    config: DictConfig, prompt_tokenizer: PromptTokenizer, method: Method | None = None, adapter: Path | None = None
) -> LoadedModel:
    """The bare model, or the model with the adapter in this folder, whose method this is (see `saved_method`)."""
    device = build_device(config)
    check_quantizer(config)
    model = build_backbone(config, prompt_tokenizer.tokenizer, device, method)
    base_parameters, sample = parameter_count(model), weights_sample_sha256(model)
    if method is not None and adapter is not None:
        check_weights(adapter, sample, config)
    note_sample(config, sample)
    quantize_model(config, model, device)
    if method is not None and adapter is not None:
        attach_saved(adapter, method, model)
    shard_model(config, model, device, method)
    execution = build_execution(config, device, method)
    return LoadedModel(model, prompt_tokenizer, execution, base_parameters, method, sample)


def build_tokenizer(
    config: DictConfig, decoder_only: bool | None = None, adapter: Path | None = None, trains: bool = True
) -> PromptTokenizer:
    """`model.tokenizer`, else the checkpoint's own, else bytes; set up for the architecture of `model.path`.

    `decoder_only`: None reads it from the checkpoint's config.json. The other arguments: see `tokenizer_for`.
    """
    source = model_source(config)
    if decoder_only is None:
        path = checkpoint_path(source)
        decoder_only = path is not None and not is_encoder_decoder(path, source.revision, _trusted(config))
    path = tokenizer_path(source, config.model.tokenizer)
    tokenizer = load_tokenizer(path, tokenizer_revision(config), decoder_only, _trusted(config))
    return tokenizer_for(config, PromptTokenizer(tokenizer, config.max_tokens, decoder_only), adapter, trains)


def tokenizer_for(
    config: DictConfig, prompt_tokenizer: PromptTokenizer, adapter: Path | None = None, trains: bool = True
) -> PromptTokenizer:
    """The same tokenizer as these settings require for scoring (with an adapter or none) or for training."""
    start = local_adapter(config.init_adapter) if trains and config.init_adapter is not None else adapter
    own = replace(prompt_tokenizer, max_tokens=config.max_tokens)
    return with_scoring_rule(own, model_name(config), settings(EvaluationSettings, config), start, trains)


def build_backbone(config: DictConfig, tokenizer: Any, device: torch.device, method: Method | None = None) -> nn.Module:
    """The frozen model on its device (see `shard_model`): a checkpoint, or random weights of the shape `model.arch`.

    The dtype of the weights depends on the method that will be attached (None: no method). A model to be quantised
    (see `quantize_model`) is on the CPU.
    """
    _check_model(config)
    dtype = weight_dtype(config, device, method)
    source = model_source(config)
    path = checkpoint_path(source)
    if path is None:
        model = random_model(resolved(config.model.arch), len(tokenizer)).to(dtype)
    else:
        wanted = "auto" if shards_weights(config) else dtype
        model = load_model(path, source.revision, wanted, _trusted(config))
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    if len(tokenizer) > rows:
        raise UserError(f"The tokenizer has {len(tokenizer)} tokens, the model only {rows} embedding rows.")
    model.requires_grad_(False)
    if shards_weights(config):  # what remains is done in `shard_model`
        convert_what_stays(model, dtype)
        return model
    return model if quantization(config) else model.to(device)


def shard_model(config: DictConfig, model: nn.Module, device: torch.device, method: Method | None) -> None:
    """The last step of building with `trainer=fsdp` or `deepspeed_3`: gives each device its shard of the weights."""
    if shards_weights(config) and method is not None and method.needs_mask:
        raise UserError(
            f"method={config.method.name} is calibrated by one device with the whole model, which trainer="
            f"{config.trainer.strategy} leaves to none: use trainer=ddp."
        )
    if uses_zero3(config):
        from tfew.devices.zero import partition

        partition(model, weight_dtype(config, device, method))
    elif shards_weights(config):
        shard(model, device, weight_dtype(config, device, method))


def gathered_adapter(config: DictConfig, model: nn.Module) -> AbstractContextManager[Any]:
    """A context in which trained parameters can be saved and counted, even if they are sharded."""
    if not uses_zero3(config):
        return nullcontext()
    from tfew.devices.zero import gather_parameters

    return gather_parameters(list(adapter_parameters(model).values()))


def build_shape(config: DictConfig, tokens: int = 0) -> nn.Module:
    """The same model on device "meta"; without reading its files if configs/model has its configuration.

    `tokens`: see `build_blueprint`.
    """
    _check_model(config)
    path, source = config.model.path, model_source(config)
    if path is not None and not is_known_checkpoint(config):
        return shape_at(str(checkpoint_path(source)), source.revision, _trusted(config))
    if config.model.get("config") is not None:
        return shape_of_config(resolved(config.model)["config"])
    return shape_of(resolved(config.model.arch), 0 if path else tokens)


def _trusted(config: DictConfig) -> str | None:
    return config.trust_remote_code


def _check_model(config: DictConfig) -> None:
    if config.model.path is None and config.model.arch is None:
        raise UserError(f"model={config.model.name} has neither model.path nor model.arch.")


def attach_method(config: DictConfig, method: Method, model: nn.Module, tokenizer: Any) -> None:
    """Attaches the method for training, with seeded starting values or those of `init_adapter=`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if (placement := method.placement(model)) is not None:
            log.info(f"{config.method.name} is on {placement.line}.")
        attach(method, model)
        if config.init_adapter is None:
            method.initialise(model, tokenizer)
    if config.init_adapter is not None:
        restore(method, model, _checked_init_adapter(config))
    make_optimizer(config, list(adapter_parameters(model).values()))  # reports bad settings before the run starts


def starting_weights(config: DictConfig, method: Method, model: nn.Module) -> dict[str, Tensor]:
    """Initial weights for training a scaling method; the model has no method attached."""
    neutral = method.neutral(model)
    if config.init_adapter is None:
        return neutral
    weights = load_weights(_checked_init_adapter(config))
    check_fit(neutral, weights)
    return {name: weights[name].to(vector) for name, vector in neutral.items()}


def _checked_init_adapter(config: DictConfig) -> Path:
    """The folder `init_adapter=`; raises UserError if its method differs from the run's."""
    folder = local_adapter(config.init_adapter)
    _, saved = _described(folder)
    if other := unlike_base(folder, base_of(config)):
        log.info(f"Note: init_adapter={folder} was trained on {other}.")
    ours, theirs = (
        identity({"method": {**method_arguments(section), "_target_": section["_target_"]}})["method"]
        for section in (resolved(config.method), saved)
    )
    if unlike := differences(ours, theirs):
        raise UserError(f"init_adapter={folder} was made with other settings of method= ({'; '.join(unlike[:4])}).")
    return folder


def make_optimizer(config: DictConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return optimizer_from(resolved(config.optimizer), parameters)


def saved_method(folder: Path, config: DictConfig) -> tuple[str, Method]:
    """Name and method that a saved adapter was made with; it is attached and restored by `attach_saved`."""
    name, description = _described(folder)
    check_base(folder, config)
    return name, make_method(description)


def _described(folder: Path) -> tuple[str, dict[str, Any]]:
    """Name and description of a saved adapter's method."""
    description = adapter_description(folder)["method"]
    if not isinstance(description, dict) or not isinstance(description.get("name"), str):
        raise UserError(f"{folder / CONFIG_FILE} does not name its method.")
    if not str(description.get("_target_", "")).startswith("tfew.methods."):
        raise UserError(f"{folder} names a method that this project does not have: {description.get('_target_')!r}.")
    return str(description["name"]), description


def attach_saved(folder: Path, method: Method, model: nn.Module) -> None:
    """Attaches and restores a saved adapter; raises UserError if the file does not fit, before allocating memory."""
    try:
        check_stored(method, model, load_shapes(folder))
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    attach(method.for_restoring(), model)
    restore(method, model, folder)


def attach_weights(method: Method, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """The same for tensors that are already loaded."""
    check_stored(method, model, weights)
    attach(method, model)
    method.restore(model, weights)


def check_stored(method: Method, model: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Raises UserError if the method would not store tensors of these shapes for this model. The method need not be
    attached, and nothing is allocated: settings such as the rank may come from an untrusted file.
    """
    shape = shape_like(model)
    tried = copy.deepcopy(method.for_restoring())
    try:
        attach(tried, shape)
    except UserError:
        raise
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:  # of sizes that torch cannot even count
        raise UserError(f"The method's settings give sizes that no model has: {one_line(error)}") from error
    tried.check_stored(shape, stored)


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
