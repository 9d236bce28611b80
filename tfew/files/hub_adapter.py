"""Adapters on the Hub: `hub:OWNER/NAME` or `hub:OWNER/NAME@REVISION` wherever a folder is accepted.

Only the files of an adapter are downloaded: no settings of a run, and no code, whatever else is in the repository.
"""

import os
import re
from pathlib import Path

from tfew.errors import UserError, shorten_list
from tfew.files import hub
from tfew.files.hub_files import MODELS, commit_of, fetch, file_sizes, note_branch, snapshot

HUB = "hub:"
FILES = ("adapter.json", "adapter.safetensors", "README.md", "adapter_config.json", "adapter_model.safetensors")
DESCRIPTIONS = (FILES[0], FILES[3])  # of tfew's format and of HF peft's
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def local_adapter(value: str | Path) -> Path:
    """The folder that `adapter=` and similar settings name; an adapter on the Hub is downloaded if not cached.

    Raises UserError if that cannot be loaded or is not an adapter.
    """
    text = str(value)
    if not text.startswith(HUB):
        return Path(os.path.expanduser(text))  # Path.expanduser raises for an unknown user
    id, _, revision = text.removeprefix(HUB).partition("@")
    return _downloaded(check_repository(id, text), revision or "main")


def check_repository(id: str, said: str) -> str:
    if not REPOSITORY.fullmatch(id):
        raise UserError(f"{said} does not name a repository of the Hub: OWNER/NAME.")
    return id


def _downloaded(id: str, revision: str) -> Path:
    commit = commit_of(MODELS, id, revision)
    folder = snapshot(MODELS, id, commit)
    there = file_sizes(id, commit) if hub.reachable() else None
    names = [path.name for path in folder.glob("*")] if there is None else list(there)
    if not set(DESCRIPTIONS) & set(names):
        raise UserError(f"{HUB}{id} holds neither {' nor '.join(DESCRIPTIONS)}; there: {shorten_list(names)}.")
    fetch(MODELS, id, commit, [name for name in FILES if name in names])
    note_branch(MODELS, id, revision, commit)
    return folder
