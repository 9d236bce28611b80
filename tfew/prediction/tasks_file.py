"""The file that names many tasks and where their adapters are: {"spam": "runs/A", "topic": "runs/B"}."""

from collections.abc import Mapping
from pathlib import Path

from tfew.errors import UserError
from tfew.files.hub_adapter import HUB
from tfew.files.regular import read_text
from tfew.files.untrusted import parse_json

Folders = Mapping[str, str | Path] | None  # by task; None: a single adapter, without a file


def task_folders(path: Path) -> dict[str, str | Path]:
    """Task names and adapter folders, or adapters of the Hub, of a JSON file.

    Relative paths are resolved against the current folder, else against that of the file.
    """
    try:
        named = parse_json(read_text(path))
    except FileNotFoundError as error:
        raise UserError(f"adapters={path} does not exist.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"adapters={path} cannot be read as JSON: {error}.") from error
    if not isinstance(named, dict) or not named or not all(isinstance(value, str) for value in named.values()):
        raise UserError(f'adapters={path} does not map task names to folders, as {{"spam": "runs/A"}} does.')
    folders: dict[str, str | Path] = {}
    for name, value in named.items():
        if value.startswith(HUB):
            folders[name] = value
            continue
        places = [Path(value).expanduser(), path.parent / value]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            raise UserError(f"adapters={path}: the folder {value} of task {name!r} does not exist.")
        folders[name] = folder
    return folders
