"""Uploads an adapter to the Hub: its weights, adapter.json and card, and HF peft's format where there is one.

Of its run, only the prompt templates and the label names are published: no rows, no texts, no predictions, and no
paths of the machine.
"""

import logging
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from tfew.errors import UserError
from tfew.files.checksums import to_checked_json
from tfew.files.hub_adapter import FILES
from tfew.files.hub_errors import explain
from tfew.files.hub_files import MODELS
from tfew.files.hub_xet import or_over_http
from tfew.methods.base import Method
from tfew.models.adapters_io import CONFIG_FILE, TEMPERATURE, WEIGHTS_FILE, adapter_description, saved_temperature
from tfew.models.foreign_adapters import write_peft
from tfew.models.saved_task import TASK, task_of
from tfew.runs.card import CARD_FILE

log = logging.getLogger(__name__)


def write_published(
    folder: Path, adapter: Path, method: Method, model: nn.Module, card: str, settings: Mapping[str, Any] | None
) -> None:
    """Writes the files to publish from an adapter folder of tfew.

    The temperature becomes a key of adapter.json, and so does the task if the `settings` of its run are known.
    """
    described = {key: value for key, value in adapter_description(adapter).items() if key != "sha256"}
    if settings is not None and (task := task_of(settings)) is not None:
        described[TASK] = task
    if (temperature := saved_temperature(adapter)) is not None:
        described[TEMPERATURE] = temperature
    (folder / CONFIG_FILE).write_text(to_checked_json(described), encoding="utf-8")
    shutil.copyfile(adapter / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    if not method.peft_types:
        return
    try:
        peft = method.to_peft(model)
    except UserError as error:
        log.info(f"Note: not also in HF peft's format: {error}")
    else:
        base = described["base"]
        write_peft(folder, peft, base.get("path"), base.get("commit"))


def publish(
    adapter: Path,
    method: Method,
    model: nn.Module,
    card: str,
    settings: Mapping[str, Any] | None,
    repository: str,
    private: bool,
    dry_run: bool,
) -> None:
    """Uploads the adapter in one commit, into a new or existing repository; `dry_run` only lists the files.

    `settings`: of its run, from which the task is described; None: adapter.json keeps the task it has.

    Raises UserError if the Hub refuses the upload, or if an existing repository is public and should be private.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_published(folder, adapter, method, model, card, settings)
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        assert files.keys() <= set(FILES)
        listed = ", ".join(f"{file} ({size:,} bytes)" for file, size in files.items())
        seen = "private" if private else "public"
        if dry_run:
            log.info(f"Would upload to {repository} ({seen}), and nothing else: {listed}.")
            return
        try:
            _upload(folder, repository, private)
        except UserError:
            raise
        except Exception as error:  # of a dozen kinds
            why = explain(error, repository, MODELS) or " ".join(str(error).split())[:300].rstrip(".")
            raise UserError(f"repo={repository} could not be written: {why}.") from error
        log.info(f"Uploaded to {repository} ({seen}): {listed}. Use it with adapter=hub:{repository}.")


def _upload(folder: Path, repository: str, private: bool) -> None:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    info: Any = api.model_info(repository)
    if private and not info.private:
        raise UserError(f"repo={repository} exists and is public: private=false uploads to it, or choose another.")
    call = partial(
        api.upload_folder, repo_id=repository, folder_path=folder, commit_message="An adapter made with tfew"
    )
    or_over_http(call, repository)


def plain_card(base: Mapping[str, Any], method: str) -> str:
    """The card of an adapter without its run: it has no results."""
    named = base.get("path")
    front = ["---", *([f"base_model: {named}"] if named else []), "tags: [tfew, few-shot]", "---"]
    return "\n".join([*front, "", f"# {method} on {named or base.get('name')}", "", "An adapter of tfew.", ""])
