"""The only place where model, tokenizer, method and adapter weights meet."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from inspect import isabstract
from pathlib import Path
from typing import Any, get_type_hints

import torch
from hydra.utils import get_class
from omegaconf import DictConfig
from torch import Tensor, nn

from tfew.config import resolved
from tfew.data.tokenization import PromptTokenizer
from tfew.devices.distributed import local_rank_and_size, world_size
from tfew.devices.sharding import convert_what_stays, shard
from tfew.errors import UserError
from tfew.files.hub import hub_id
from tfew.files.untrusted import validated
from tfew.methods.base import Method, adapter_parameters, attach, check_fit
from tfew.models.adapters_io import CONFIG_FILE, adapter_description, load_weights
from tfew.models.backbone import is_encoder_decoder, load_model, load_tokenizer, random_model, shape_at, shape_of
from tfew.runs.identity import differences, is_known_checkpoint, model_name

log = logging.getLogger(__name__)

# keys of a method's YAML that are not its arguments: its name and the recipe that train.yaml takes from it
NOT_ARGUMENTS = ("name", "_target_", "steps", "lr", "scale_parameter")


@dataclass(frozen=True)
class Trainable:
    """A base model with a method attached, ready to be trained."""

    method: Method
    model: nn.Module
    prompt_tokenizer: PromptTokenizer
    base_parameters: int


def build_trainable(config: DictConfig, prompt_tokenizer: PromptTokenizer | None = None) -> Trainable:
    """With this encoder, where it was built already; raises UserError where model, method and settings do not fit."""
    device, method, prompt_tokenizer = (
        build_device(config),
        build_method(config),
        prompt_tokenizer or build_tokenizer(config),
    )
    model = build_backbone(config, prompt_tokenizer.tokenizer, device, method)
    base_parameters = sum(parameter.numel() for parameter in model.parameters())
    attach_method(config, method, model, prompt_tokenizer.tokenizer)
    shard_model(config, model, device, method)
    return Trainable(method, model, prompt_tokenizer, base_parameters)


def build_tokenizer(config: DictConfig, decoder_only: bool | None = None) -> PromptTokenizer:
    """`model.tokenizer`, else the checkpoint's own, else bytes; for the kind of model that `model.path` is.

    `decoder_only`: where that is known already, None: the checkpoint is asked.
    """
    path = config.model.path
    if decoder_only is None:
        decoder_only = path is not None and not is_encoder_decoder(path, config.model.revision, _trusted(config))
    path = config.model.tokenizer or config.model.path
    tokenizer = load_tokenizer(path, config.model.revision, decoder_only, _trusted(config))
    return PromptTokenizer(tokenizer, config.max_tokens, decoder_only)


def build_backbone(config: DictConfig, tokenizer: Any, device: torch.device, method: Method | None = None) -> nn.Module:
    """The frozen model on its device (see `shard_model`): a checkpoint, or random weights of the shape `model.arch`.

    The method that will be attached (None: nothing is) has a say in the type of the weights.
    """
    _check_model(config)
    dtype = weight_dtype(config, device, method)
    if config.model.path is None:
        model = random_model(resolved(config.model.arch), len(tokenizer)).to(dtype)
    else:
        wanted = "auto" if shards_weights(config) else dtype
        model = load_model(config.model.path, config.model.revision, wanted, _trusted(config))
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    if len(tokenizer) > rows:
        raise UserError(f"The tokenizer has {len(tokenizer)} tokens, the model only {rows} embedding rows.")
    model.requires_grad_(False)
    if shards_weights(config):  # what remains is done in `shard_model`
        convert_what_stays(model, dtype)
        return model
    return model.to(device)


def shards_weights(config: DictConfig) -> bool:
    """Whether each process holds a part of the weights, so that all go through the model together."""
    return config.trainer.strategy in ("fsdp", "deepspeed_3") and world_size() > 1


def uses_zero3(config: DictConfig) -> bool:
    """Whether what is trained lies in parts, too."""
    return config.trainer.strategy == "deepspeed_3" and world_size() > 1


def shard_model(config: DictConfig, model: nn.Module, device: torch.device, method: Method | None) -> None:
    """The last step of building where devices share the weights (`trainer=fsdp`, `deepspeed_3`): each gets its part."""
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
    """A context in which what is trained can be saved and counted, also where it lies in parts."""
    if not uses_zero3(config):
        return nullcontext()
    from tfew.devices.zero import gather_parameters

    return gather_parameters(list(adapter_parameters(model).values()))


def build_shape(config: DictConfig, rows: int = 0) -> nn.Module:
    """The same model without memory for its weights, and without its files where `model.arch` says how they are.

    `rows`: tokens of the tokenizer, which a model with random weights has embeddings for.
    """
    _check_model(config)
    if config.model.path is None or is_known_checkpoint(config):
        return shape_of(resolved(config.model.arch), 0 if config.model.path else rows)
    return shape_at(config.model.path, config.model.revision, _trusted(config))


def _trusted(config: DictConfig) -> str | None:
    return config.trust_remote_code


def _check_model(config: DictConfig) -> None:
    if config.model.path is None and config.model.arch is None:
        raise UserError(f"model={config.model.name} has neither model.path nor model.arch.")


def attach_method(config: DictConfig, method: Method, model: nn.Module, tokenizer: Any) -> None:
    """Attaches the method for training, with seeded starting values or those of `init_adapter=`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        attach(method, model)
        if config.init_adapter is None:
            method.initialise(model, tokenizer)
    if config.init_adapter is not None:
        restore(method, model, _checked_init_adapter(config))
    make_optimizer(config, list(adapter_parameters(model).values()))  # a bad setting is said before the run starts


def starting_weights(config: DictConfig, method: Method, model: nn.Module) -> dict[str, Tensor]:
    """What training starts from, of a method that scales; the model has no method attached."""
    neutral = method.neutral(model)
    if config.init_adapter is None:
        return neutral
    weights = load_weights(_checked_init_adapter(config))
    check_fit(neutral, weights)
    return {name: weights[name].to(vector) for name, vector in neutral.items()}


def _checked_init_adapter(config: DictConfig) -> Path:
    """The folder `init_adapter=`; raises UserError where it was made with another method than the run's."""
    folder = Path(config.init_adapter)
    _, saved = _described(folder, config)
    ours = {**method_arguments(resolved(config.method)), "_target_": config.method._target_}
    theirs = {**method_arguments(saved), "_target_": saved["_target_"]}
    if unlike := differences(ours, theirs):
        raise UserError(f"init_adapter={folder} was made with other settings of method= ({'; '.join(unlike[:4])}).")
    return folder


def make_optimizer(config: DictConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    arguments = resolved(config.optimizer)
    target = arguments.pop("_target_")
    try:
        return get_class(target)(parameters, **arguments)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"optimizer= {target} does not take these settings ({arguments}): {error}.") from error


def saved_method(folder: Path, config: DictConfig) -> tuple[str, Method]:
    """Name and method that a saved adapter was made with; it is attached and restored by `attach_saved`."""
    name, description = _described(folder, config)
    return name, make_method(description)


def _described(folder: Path, config: DictConfig) -> tuple[str, dict[str, Any]]:
    """Name and description of a saved adapter's method; says so where the adapter belongs to another base."""
    saved = adapter_description(folder)
    description = saved["method"]
    if not isinstance(description, dict) or not isinstance(description.get("name"), str):
        raise UserError(f"{folder / CONFIG_FILE} does not say which method it is of.")
    if saved["base"] != base_of(config):
        log.info(f"Note: {folder} was trained on {saved['base']}, and is used on {base_of(config)}.")
    if not str(description.get("_target_", "")).startswith("tfew.methods."):
        raise UserError(f"{folder} names a method that is none of this project's: {description.get('_target_')!r}.")
    return str(description["name"]), description


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
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda") if world_size() == 1 else torch.device("cuda", local_rank_and_size()[0])


def memory_bytes(config: DictConfig) -> float | None:
    """`memory_gb=` in bytes; None: as much as there is."""
    return None if config.memory_gb is None else 1e9 * config.memory_gb


def base_of(config: DictConfig) -> dict[str, Any]:
    """What an adapter says of the model that it belongs to; no paths of this machine, since adapters travel."""
    return {"name": model_name(config), "path": hub_id(config.model.path)}


def make_method(description: Mapping[str, Any]) -> Method:
    arguments = method_arguments(description)
    try:
        kind = get_class(description["_target_"])
    except Exception as error:
        raise UserError(f"There is no method {description['_target_']!r} (method._target_).") from error
    if not issubclass(kind, Method) or isabstract(kind):
        raise UserError(f"method._target_={description['_target_']} is not a tfew.methods.base.Method.")
    _check_arguments(kind, arguments)
    return kind(**arguments)


def method_arguments(description: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments among the keys of a method's YAML."""
    return {key: value for key, value in description.items() if key not in NOT_ARGUMENTS}


def _check_arguments(kind: type[Method], arguments: Mapping[str, Any]) -> None:
    """Names and types of a method's arguments, read off its constructor: they come from a user or from a file."""
    known = get_type_hints(kind.__init__)
    known.pop("return", None)
    if wrong := sorted(known.keys() ^ arguments.keys()):
        raise UserError(
            f"method. has or lacks {', '.join(wrong)}; {kind.__name__} takes {', '.join(known) or 'nothing'}."
        )
    for name, hint in known.items():
        value = arguments[name]
        least = 0 if name in kind.may_be_zero else 1
        good = {
            bool: (isinstance(value, bool), "true or false"),
            int: (type(value) is int and value >= least, f"a whole number of at least {least}"),
            float: (type(value) in (int, float), "a number"),
            str: (isinstance(value, str), "text"),
            Sequence[str]: (_is_list_of_text(value), "a list of names, such as [a,b]"),
        }.get(hint, (True, ""))
        if not good[0]:
            raise UserError(f"method.{name}={value} is not {good[1]}.")
        try:
            validated(value, hint)
        except ValueError as error:
            raise UserError(f"method.{name}={value} is of another kind ({error}).") from error


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def uses_autocast(config: DictConfig, device: torch.device, method: Method | None) -> bool:
    """Mixed precision over float32 weights: the official way, and the way to train weights of the base."""
    return bool(config.trainer.get("autocast")) or (
        device.type == "cuda" and (config.fidelity.autocast or (method is not None and method.trains_base))
    )


def weight_dtype(config: DictConfig, device: torch.device, method: Method | None) -> torch.dtype:
    """bfloat16 on a GPU (T5 in float16 overflows), float32 on a CPU and where autocast works over float32 weights."""
    if config.model.dtype != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[config.model.dtype]
    return torch.bfloat16 if device.type == "cuda" and not uses_autocast(config, device, method) else torch.float32
