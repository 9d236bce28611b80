"""The description of the base model in an adapter, and checks that the model in use matches it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tfew.config import local_path
from tfew.errors import UserError
from tfew.files.hub import hub_id
from tfew.files.hub_adapter import HUB
from tfew.models.adapters_io import CONFIG_FILE, adapter_description
from tfew.runs.identity import model_name
from tfew.runs.model_source import model_source, named_tokenizer
from tfew.runs.noted import COMMIT, OF_MODEL, SAMPLE

log = logging.getLogger(__name__)


def base_of(config: DictConfig) -> dict[str, Any]:
    """The description of the base model that an adapter stores; without local paths, since adapters are shared."""
    sha256 = model_source(config).gguf_sha256()
    weights = {} if sha256 is None else {"sha256": sha256}  # a GGUF file is identified by its content
    tokenizer = {} if (other := hub_id(config.model.tokenizer)) is None else {"tokenizer": other}
    noted = {key: value for key in OF_MODEL if (value := config.model.get(key)) is not None}
    return {"name": model_name(config), "path": hub_id(config.model.path), **tokenizer, **weights, **noted}


def check_chosen_base(config: DictConfig, adapter: str) -> None:
    """Logs the base model and tokenizer that an adapter's settings choose, unless this project lists them.

    Raises UserError if an adapter from the Hub chooses a local folder, or if a file to be read is not a regular file:
    reading it might never end.
    """
    own_tokenizer = named_tokenizer(str(config.model.name))
    chosen = {
        "model.path": None if model_source(config).is_named else config.model.path,
        "model.tokenizer": None if config.model.tokenizer == own_tokenizer else config.model.tokenizer,
    }
    for key, path in chosen.items():
        if path is None:
            continue
        what = "base model" if key == "model.path" else "tokenizer"
        if hub_id(path) is not None:
            log.info(f"Note: {adapter} chooses its {what}: {path} of the Hub ({key}= names another).")
            continue
        if adapter.startswith(HUB):
            raise UserError(
                f"{adapter} chooses a local {what}, {path}, which its author cannot know: set {key}= to the folder or"
                " Hub id of the right one."
            )
        _check_regular(Path(local_path(path)), f"{adapter} chooses the {what} {path}")
        log.info(f"Note: {adapter} chooses its {what}: {path} of this machine ({key}= names another).")


def _check_regular(path: Path, who: str) -> None:
    """Checks a file, or the files of a folder; a missing file is reported by the code that loads it."""
    for file in [*path.iterdir()] if path.is_dir() else [path]:
        if file.exists() and not file.is_dir() and not file.is_file():
            raise UserError(f"{who}, where {file.name} is no regular file.")


def saved_base(folder: Path) -> dict[str, Any]:
    """`base_of` of the run that the adapter in this folder was trained in."""
    base = adapter_description(folder)["base"]
    if not isinstance(base, dict) or not all(isinstance(value, str | None) for value in base.values()):
        raise UserError(f"{folder / CONFIG_FILE} does not say which model it belongs to.")
    return base


def check_base(folder: Path, config: DictConfig) -> None:
    """Before the model is loaded: raises UserError if its Hub id or its commit differs from the adapter's.

    If the adapter has no digest of the weights, a different name is only logged: it may be a copy of the same model.
    """
    unlike = unlike_base(folder, ours := base_of(config))
    if not unlike:
        return
    theirs = saved_base(folder)
    is_other = any(_both_differ(theirs, ours, key) for key in ("path", COMMIT))
    if is_other and config.get("base") != "any":
        raise other_base_error(folder, unlike)
    if config.get("base") == "any" or SAMPLE not in theirs:
        log.info(f"Note: {folder} was trained on {unlike}.")


def check_weights(folder: Path, sample: str, config: DictConfig) -> None:
    """Raises UserError if the loaded weights are not those that the adapter was trained on."""
    theirs = saved_base(folder).get(SAMPLE)
    if theirs in (None, sample):
        return
    unlike = (
        f"other weights (a digest of a sample of them is {sample[:12]}, and was {theirs[:12]}, of the model"
        f" {saved_base(folder).get('name')})"
    )
    if config.get("base") != "any":
        raise other_base_error(folder, unlike)
    log.info(f"Note: {folder} was trained on {unlike}.")


def note_other_base(folder: Path, theirs: Any, config: DictConfig) -> None:
    """Logs that an adapter of another library names another base (`theirs`, from its settings) on the Hub; it may be a
    copy of the same model.
    """
    ours = hub_id(config.model.path)
    if ours and isinstance(theirs, str) and hub_id(theirs) and theirs.lower() != ours.lower():
        log.warning(f"Note: {folder} says that it was trained on {theirs}, and not on {ours} (model=).")


def other_base_error(folder: Path, unlike: str) -> UserError:
    return UserError(
        f"{folder} was trained on {unlike}: its vectors belong to that model alone. base=any uses it on this one"
        " anyway."
    )


def unlike_base(folder: Path, ours: Mapping[str, Any]) -> str | None:
    """How the adapter's base differs from this one, in words; None if no difference is known."""
    theirs = saved_base(folder)
    keys = [key for key in ("path", COMMIT, "sha256") if _both_differ(theirs, ours, key)]
    if not keys and theirs.get("name") == ours.get("name"):
        return None
    shown = ", ".join(f"{theirs.get(key)} and not {ours.get(key)}" for key in keys or ["name"])
    return f"another model: {shown}"


def _both_differ(theirs: Mapping[str, Any], ours: Mapping[str, Any], key: str) -> bool:
    return None not in (theirs.get(key), ours.get(key)) and theirs[key] != ours[key]
