"""The task description in an adapter that is shared without its run: prompt templates and label names.

It is in `adapter.json` and holds only what prediction needs: no rows, and no paths of the machine.
"""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from typing_extensions import TypedDict

from tfew.errors import UserError
from tfew.files.untrusted import validated
from tfew.models.adapters_io import CONFIG_FILE, adapter_description
from tfew.runs.run_folder import strings

TASK = "task"  # in adapter.json
GROUPS = ("dataset", "templates", "score")  # sections of the settings; and `max_tokens`
MAX_TOKENS = "max_tokens"


class _Task(TypedDict):
    dataset: dict[str, Any]
    templates: dict[str, Any]
    score: dict[str, Any]
    max_tokens: int


def task_of(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The task description from a run's resolved settings; None for a mixture, whose rows are not labelled."""
    dataset = settings["dataset"]
    if dataset.get("members") is not None:
        return None
    groups = {key: dict(settings[key]) for key in GROUPS}
    return {**groups, "dataset": _without_places(dataset), MAX_TOKENS: settings[MAX_TOKENS]}


def saved_task(folder: Path) -> dict[str, Any] | None:
    """The task that `adapter.json` in this folder describes; None if it describes none.

    Raises UserError if the description is invalid, or refers to something outside it.
    """
    path = folder / CONFIG_FILE
    if not path.is_file() or (found := adapter_description(folder).get(TASK)) is None:
        return None
    try:
        task = dict(validated(found, _Task))
    except ValueError as error:
        raise UserError(f"{path} does not describe its task: {error}.") from error
    if any("${" in text for text in strings(task)):
        raise UserError(f"{path} refers to something outside it (${{...}}): it is not to be trusted.")
    return {**{key: task[key] for key in (*GROUPS, MAX_TOKENS)}, "dataset": _without_places(task["dataset"])}


def _without_places(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The section without file paths, except those that every copy of the data set has under `data_dir`."""
    kept = dict(dataset)
    if dataset.get("table") is not None:  # a user's own table; its checksum is useless without it
        kept |= {"files": {"train": [], "eval": []}, "table": {"sha256": None}}
    elif isinstance(files := dataset.get("files"), Mapping):
        kept["files"] = {split: [name for name in names or [] if _is_inside(name)] for split, names in files.items()}
    if dataset.get("layout") is not None:  # its file has become a template
        kept["layout"] = None
    return kept


def _is_inside(name: object) -> bool:
    parts = [name] if isinstance(name, str) else name
    return isinstance(parts, list) and all(
        isinstance(part, str) and not PurePath(part).is_absolute() and ".." not in PurePath(part).parts
        for part in parts
    )
