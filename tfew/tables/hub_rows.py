"""Rows of Hub data sets at a fixed commit; errors list the configurations or splits that exist."""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tfew.errors import UserError, nearest, shorten_list
from tfew.files import hub
from tfew.files.hub_files import COMMIT, DATASETS, commit_of, explained, note_commit
from tfew.files.hub_xet import or_over_http
from tfew.tables.table_reader import Table


def load_from_hub(source: Mapping[str, Any], split: str, without: str) -> Any:
    """A split of a data set on the Hub (`DatasetSpec.hub`); `without`: the alternative to suggest in errors."""
    id, pinned = source["id"], source.get("commit")
    revision, online = pinned or source["revision"], hub.reachable()
    import datasets

    try:
        at = commit_of(DATASETS, id, revision) if online else revision
        call = partial(datasets.load_dataset, id, source["config"], split=source[split], revision=at)
        waits = hub.WAITS_SECONDS[:1]  # the library has its own retries
        loaded = or_over_http(partial(hub.patiently, call, id, waits), id)
    except UserError as error:
        raise UserError(f"The data set {_named(source, split)} cannot be loaded: {error} Or {without}.") from error
    except Exception as error:  # the library raises a dozen kinds for "not there"
        reason = _other_choice(source, split, at) or explained(error, id, DATASETS)
        raise UserError(f"The data set {_named(source, split)} cannot be loaded: {reason}. Or {without}.") from error
    _check_commit(loaded, source, revision, online)
    return loaded


def load_hub_table(source: Mapping[str, Any], split: str) -> Table:
    """A data set of the Hub as a table, with ClassLabel numbers replaced by their names."""
    import datasets

    loaded = load_from_hub(source, split, "name a CSV, TSV, JSONL or Parquet file with data=")
    classes = {
        name: list(feature.names)
        for name, feature in loaded.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    named = [
        {name: classes[name][value] if name in classes and value is not None else value for name, value in row.items()}
        for row in loaded
    ]
    return Table(source["id"], list(loaded.column_names), named, classes)


def _named(source: Mapping[str, Any], split: str) -> str:
    revision = source.get("commit") or source["revision"]
    return f"{source['id']} ({source['config']}, {source[split]}, revision {revision})"


def _other_choice(source: Mapping[str, Any], split: str, revision: str) -> str | None:
    """The existing configurations or splits, if another or none was named."""
    import datasets

    id, config = source["id"], source["config"]
    with suppress(Exception):  # then the first error is enough
        configs = datasets.get_dataset_config_names(id, revision=revision)
        if (config or "default") not in configs:
            return _choose("configurations", configs, "dataset.hub.config", config)
        splits = datasets.get_dataset_split_names(id, config, revision=revision)
        if source[split].partition("[")[0] not in splits:
            return _choose("splits", splits, f"dataset.hub.{split}", source[split])
    return None


def _choose(what: str, names: list[str], setting: str, value: str | None) -> str:
    return f"its {what} are {shorten_list(names, 40)}; set {setting}={nearest(value, names) or names[0]}, or another"


def _check_commit(loaded: Any, source: Mapping[str, Any], revision: str, online: bool) -> None:
    """Notes the commit of a cached copy; raises UserError if another one is wanted.

    Offline, the library uses its latest copy, whatever commit is requested; the copy's folder names its commit.
    """
    files = loaded.cache_files
    found = Path(files[0]["filename"]).parent.name if files else ""
    if online or not COMMIT.fullmatch(found):
        return
    if COMMIT.fullmatch(revision) and found != revision:
        raise UserError(
            f"The data set {source['id']} is needed at commit {revision[:12]}, but the local copy is of"
            f" {found[:12]}, and the Hub cannot be reached: connect to it."
        )
    note_commit(DATASETS, source["id"], revision, found)
