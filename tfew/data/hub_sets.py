"""Data sets of the Hub: their rows as `datasets` gives them, or as a table to find out about."""

from collections.abc import Mapping
from typing import Any

from tfew.data.table import Table
from tfew.errors import UserError
from tfew.files import hub


def load_from_hub(source: Mapping[str, Any], split: str, without: str) -> Any:
    """A split of a data set on the Hub; `without` says, in errors, what else can be done."""
    hub.reachable()
    import datasets

    try:
        return datasets.load_dataset(source["id"], source["config"], split=source[split], revision=source["revision"])
    except Exception as error:  # the library raises a dozen kinds for "not there"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"The data set {source['id']} ({source['config']}, {source[split]}, revision {source['revision']}) cannot"
            f" be loaded: {reason}. Without the Hub, {without}."
        ) from error


def hub_table(source: Mapping[str, Any], split: str) -> Table:
    """A data set of the Hub as a table, to find out about; label numbers are shown by name."""
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
