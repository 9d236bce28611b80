"""Adapters to and from other projects: `python -m tfew.convert adapter=runs/NAME to=peft output=FOLDER`.

Any adapter is first attached to its base model and written from there, so that every conversion runs the method's own
checks. The model's shapes are enough for that; weights are loaded only if they are written (to=merged), or if a method
stores changes of them. Runs on the CPU, so merged weights are float32, where merging loses least, or of model.dtype=.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from tfew.cli import command, keep_to_base, overridden, with_base
from tfew.config import checked, local_path, resolved
from tfew.errors import UserError, unknown_value_error
from tfew.files.atomic_output import atomic_replacement, check_output_path, would_overwrite
from tfew.files.hub import hub_id
from tfew.files.hub_adapter import HUB, check_repository, local_adapter
from tfew.models.adapters_io import CONFIG_FILE
from tfew.runs.card import CARD_FILE, model_card
from tfew.runs.records import RECORD_FILE, RunRecord, load_record
from tfew.runs.run_folder import finished_settings, is_finished

if TYPE_CHECKING:
    from torch import nn

    from tfew.methods.base import Method

log = logging.getLogger("tfew.convert")  # __name__ is __main__ under python -m
FORMS = ("tfew", "peft", "official", "merged", "card", "hub")


@dataclass
class Loaded:
    """An adapter on its base model; `description` is the method as in its YAML, with the adapter's arguments."""

    model: "nn.Module"
    tokenizer: Any
    method: "Method"
    description: dict[str, Any]
    base: dict[str, Any]


def convert(config: DictConfig) -> Path:
    """Writes `config.adapter` in the form `config.to` and returns the folder or file."""
    source, kind = _source(config)
    config = config.copy()
    config.adapter = None  # `checked` accepts only folders; here it may be a file
    config = checked(config)
    if config.to == "hub":
        return _publish(config, source, kind)
    target = _target(config, source, kind)
    record = load_record(source) if is_finished(source) else None

    # heavy imports only from here on, after the request was checked
    if config.to == "card":
        with atomic_replacement(target) as path:
            path.write_text(_card(source, record), encoding="utf-8")
    else:
        loaded = LOADERS[kind](config, source)
        card = None if record is None else card_text(record, loaded.method)
        with atomic_replacement(target) as path:
            WRITERS[config.to](path, loaded)
            if card is not None and path.is_dir():
                (path / CARD_FILE).write_text(card, encoding="utf-8")
        if card is not None and target.is_file():
            with atomic_replacement(_card_beside(target)) as path:
                path.write_text(card, encoding="utf-8")
    log.info(f"{source} ({kind}) is now {target} ({config.to}).")
    return target


def _publish(config: DictConfig, source: Path, kind: str) -> Path:
    """Uploads an adapter of tfew; returns the name of the repository."""
    if config.repo is None:
        raise UserError("repo= is missing: OWNER/NAME of the repository on the Hub that to=hub writes.")
    repository = check_repository(str(config.repo), f"repo={config.repo}")
    for key in ("private", "dry_run"):
        if not isinstance(config[key], bool):
            raise UserError(f"{key}={config[key]!r} is neither true nor false.")
    if kind != "tfew":
        raise UserError(f"adapter={source} is in the form {kind}: convert it to tfew first, with to=tfew.")
    record = load_record(source) if is_finished(source) else None
    loaded = _load_tfew(config, source)
    from tfew.models.publishing import plain_card, publish

    name = str(loaded.description.get("name"))
    card = plain_card(loaded.base, name) if record is None else card_text(record, loaded.method, f"{HUB}{repository}")
    settings = None if record is None else record.config
    publish(source, loaded.method, loaded.model, card, settings, repository, config.private, config.dry_run)
    return Path(repository)


def with_base_of_run(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration with the base model recorded in `config.adapter`, unless the command line names one."""
    if config.adapter is None:
        return config
    folder, named = _path(config.adapter), overridden(overrides)
    if not (folder / CONFIG_FILE).is_file():
        return config
    saved = finished_settings(folder)
    if saved is None:
        return keep_to_base(with_base(config, overrides, folder), folder, named)
    merged = config.copy()
    merged.model = saved["model"]
    for key in named:
        if key.partition(".")[0] == "model":
            OmegaConf.update(merged, key, OmegaConf.select(config, key), merge=False, force_add=True)
    return keep_to_base(merged, folder, named)


def _path(value: Any) -> Path:
    return local_adapter(str(value))


def _source(config: DictConfig) -> tuple[Path, str]:
    """The adapter and which of FORMS it has, detected from its files."""
    if config.adapter is None:
        raise UserError("adapter= is missing: a run folder, adapter folder, peft folder or .pt file to convert.")
    path = _path(config.adapter)
    if not path.exists():
        raise UserError(f"adapter={path} does not exist.")
    if path.is_file():
        if path.suffix != ".pt":
            raise UserError(f"adapter={path} is a file, but not one ending in .pt; or name a folder.")
        return path, "official"
    if (path / "adapter.json").is_file():
        return path, "tfew"
    if (path / "adapter_config.json").is_file():
        return path, "peft"
    raise UserError(f"adapter={path} holds neither adapter.json (tfew) nor adapter_config.json (HF peft).")


def _target(config: DictConfig, source: Path, kind: str) -> Path:
    """Where to write; raises UserError if that would overwrite something, or is not possible."""
    if config.to not in FORMS:
        raise unknown_value_error("form", config.to, FORMS, "to=")
    if config.fused_queries not in ("refuse", "keep"):
        raise unknown_value_error("value", config.fused_queries, ("refuse", "keep"), "fused_queries=")
    if config.to == kind:
        raise UserError(f"adapter={source} is in the form to={kind} already; others: {', '.join(FORMS)}.")
    if config.to == "card":
        if not is_finished(source):
            raise UserError(f"adapter={source} holds no {RECORD_FILE}, whose numbers to=card needs: name a run folder.")
        return check_output_path(
            (source if config.output is None else _path(config.output)) / CARD_FILE, config.overwrite, folder=False
        )
    if config.output is None:
        raise UserError(f"output= is missing: the {'.pt file' if config.to == 'official' else 'folder'} to write.")
    target = _path(config.output)
    for kept in (source, None if config.model.path is None else Path(local_path(config.model.path))):
        if kept is not None and kept.exists() and would_overwrite(target, kept):
            raise UserError(f"output={target} would overwrite {kept}, which is read here: choose another.")
    if config.to != "official":
        return check_output_path(target, config.overwrite, folder=True)
    if target.suffix != ".pt":
        raise UserError(f"output={target} must end in .pt, as official files do.")
    if is_finished(source):
        check_output_path(_card_beside(target), config.overwrite, folder=False)
    return check_output_path(target, config.overwrite, folder=False)


def _load_tfew(config: DictConfig, source: Path) -> Loaded:
    from tfew.models.adapters_io import adapter_description
    from tfew.models.base_check import base_of, check_weights
    from tfew.models.build import attach_saved, saved_method
    from tfew.models.weights_sample import weights_sample_sha256

    _, method = saved_method(source, config)
    model, tokenizer = _base(config, method)
    if tokenizer is not None:
        check_weights(source, weights_sample_sha256(model), config)
    attach_saved(source, method, model)
    return Loaded(model, tokenizer, method, adapter_description(source)["method"], base_of(config))


def _load_peft(config: DictConfig, source: Path) -> Loaded:
    from tfew.models.base_check import base_of, note_other_base
    from tfew.models.build import attach_weights
    from tfew.models.foreign_adapters import read_peft
    from tfew.models.method_builder import make_method, method_arguments
    from tfew.models.method_recipes import named_recipe, recipe_for_peft

    adapter = read_peft(source)
    note_other_base(source, adapter.config.get("base_model_name_or_path"), config)
    recipe = recipe_for_peft(resolved(config.method), adapter.config.get("peft_type"))
    method = make_method(recipe)
    model, tokenizer = _base(config, method)
    arguments, weights = method.from_peft(method_arguments(recipe), adapter, model, config.fused_queries)
    if any(tensor.is_meta for tensor in weights.values()):  # weights that the file lacks come from the base model
        model, tokenizer = _base(config, None)
        arguments, weights = method.from_peft(method_arguments(recipe), adapter, model, config.fused_queries)
    method = make_method(arguments | {"_target_": recipe["_target_"]})
    attach_weights(method, model, weights)
    return Loaded(model, tokenizer, method, named_recipe(recipe | arguments), base_of(config))


def _load_official(config: DictConfig, source: Path) -> Loaded:
    from tfew.methods.base import attach
    from tfew.models.base_check import base_of
    from tfew.models.foreign_adapters import read_tensors
    from tfew.models.method_builder import make_method

    tensors = read_tensors(source)
    recipe = resolved(config.method)
    method = make_method(recipe)
    model, tokenizer = _base(config, method)
    attach(method, model)
    method.restore(model, method.from_official(model, tensors))
    return Loaded(model, tokenizer, method, recipe, base_of(config))


def _write_tfew(path: Path, loaded: Loaded) -> None:
    from tfew.models.adapters_io import save_adapter

    save_adapter(path, loaded.method.stored(loaded.model), loaded.description, loaded.base)


def _write_peft(path: Path, loaded: Loaded) -> None:
    from tfew.models.foreign_adapters import write_peft

    adapter = loaded.method.to_peft(loaded.model)
    path.mkdir()
    write_peft(path, adapter, hub_id(loaded.base["path"]), loaded.base.get("commit"))


def _write_official(path: Path, loaded: Loaded) -> None:
    from tfew.models.foreign_adapters import write_tensors

    write_tensors(path, loaded.method.to_official(loaded.model))


def _write_merged(path: Path, loaded: Loaded) -> None:
    from tfew.methods.base import merge

    model: Any = loaded.model
    merge(loaded.method, model)
    model.save_pretrained(path)
    loaded.tokenizer.save_pretrained(path)


LOADERS: dict[str, Callable[[DictConfig, Path], Loaded]] = {
    "tfew": _load_tfew,
    "peft": _load_peft,
    "official": _load_official,
}
WRITERS: dict[str, Callable[[Path, Loaded], None]] = {
    "tfew": _write_tfew,
    "peft": _write_peft,
    "official": _write_official,
    "merged": _write_merged,
}


def _base(config: DictConfig, method: "Method | None") -> tuple["nn.Module", Any]:
    """The base model and its tokenizer; or only its shapes (and None for the tokenizer), if they are enough to place
    this method's weights.
    """
    import torch

    from tfew.models.build import build_backbone, build_shape, build_tokenizer

    if config.to != "merged" and method is not None and method.restores_adapter_alone:
        return build_shape(config), None
    tokenizer = build_tokenizer(config).tokenizer
    return build_backbone(config, tokenizer, torch.device("cpu")), tokenizer


def _card(source: Path, record: RunRecord | None) -> str:
    from tfew.models.adapters_io import adapter_description
    from tfew.models.method_builder import make_method

    assert record is not None  # `_target` has checked this
    return card_text(record, make_method(adapter_description(source)["method"]))


def card_text(record: RunRecord, method: "Method", place: str = "FOLDER") -> str:
    """`place`: the adapter's path or Hub id, as shown in the card."""
    try:
        return model_card(record, in_peft=bool(method.peft_types), merges=method.merges, place=place)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"The record of {record.name} lacks something that a model card needs: {error!r}.") from error


def _card_beside(target: Path) -> Path:
    return target.with_suffix(".md")


@command("convert")
def main(config: DictConfig) -> Path:
    return convert(with_base_of_run(config, list(HydraConfig.get().overrides.task)))


if __name__ == "__main__":
    main()
