"""Where rows come from: the Hub, local files in their distributed form, or a generator of the project's own."""

import csv
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tfew import hub
from tfew.data.dataset import DatasetSpec
from tfew.errors import UserError, unknown
from tfew.schema import Example

log = logging.getLogger(__name__)
Row = Mapping[str, Any]


def load_split(spec: DatasetSpec, split: str, data_dir: Path | None) -> list[Example]:
    """All examples of the split "train" (the pool that shots are drawn from) or "eval"."""
    if spec.generator is not None:
        from tfew.mini_t0.world import generate

        return spec.examples(generate(split=split, **spec.generator), f"generated {spec.name} {split} set")
    if data_dir is None:
        return _checked(spec, split, spec.examples(_hub_rows(spec, split), f"{spec.hub['id']} {split}"))  # type: ignore[index]
    path = find_file(spec, split, data_dir)
    if path is None:
        raise UserError(
            f"No {split} rows of {spec.name} under {data_dir}: looked for {_listing(spec.files[split])}."
            f" Put one there, or name a file with 'dataset.files.{split}=[PATH]'."
        )
    examples = spec.examples(read_rows(path), str(path))
    expected = spec.rows[split]
    if expected is not None and len(examples) != expected:
        log.info(f"Note: {path} has {len(examples)} rows; the data set as published has {expected}.")
    return examples


def find_file(spec: DatasetSpec, split: str, data_dir: Path) -> Path | None:
    """The first of the data set's known file names that exists under `data_dir`."""
    return next((data_dir / name for name in spec.files[split] if (data_dir / name).is_file()), None)


def read_rows(path: Path) -> list[Row]:
    """Rows of a .jsonl, .csv or .tsv file; an error names the file and the line."""
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".tsv": _read_csv}
    if path.suffix not in readers:
        raise unknown("file ending", path.suffix, readers, f"of {path}")
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = list(readers[path.suffix](path, lines))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if not rows:
        raise UserError(f"{path} is empty.")
    return rows


def _read_jsonl(path: Path, lines: Iterable[str]) -> Iterable[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number} is not valid JSON: {error.msg} at column {error.colno}.") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is {type(row).__name__}, not a JSON object.")
        yield row


def _read_csv(path: Path, lines: Iterable[str]) -> Iterable[Row]:
    reader = csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
    for row in reader:
        if None in row or None in row.values():
            raise UserError(
                f"{path}, line {reader.line_num} does not have the header's {len(reader.fieldnames or [])} columns."
            )
        yield row


def _hub_rows(spec: DatasetSpec, split: str) -> list[Row]:
    source = spec.hub
    if source is None:
        raise UserError(
            f"{spec.name} cannot be loaded from the Hub (its loader there is a script, or its licence forbids it):"
            f" name a folder that holds {_listing(spec.files[split])} with data_dir=."
        )
    hub.reachable()
    import datasets

    try:
        loaded = datasets.load_dataset(source["id"], source["config"], split=source[split], revision=source["revision"])
    except Exception as error:  # the library raises a dozen kinds for "not there"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"The data set {source['id']} ({source['config']}, {source[split]}, revision {source['revision']}) cannot"
            f" be loaded: {reason}. Without the Hub, name a folder that holds {_listing(spec.files[split])} with"
            " data_dir=."
        ) from error
    return list(loaded)


def _checked(spec: DatasetSpec, split: str, examples: list[Example]) -> list[Example]:
    """No revision hash can be vouched for here, so the size of what came is what is checked."""
    expected = spec.rows[split]
    if expected is not None and len(examples) != expected:
        raise UserError(
            f"The Hub's {spec.name} {split} split has {len(examples)} rows instead of {expected}: not the data of the"
            f" paper. If that is meant, say dataset.rows.{split}=null."
        )
    return examples


def _listing(names: Iterable[str]) -> str:
    return " or ".join(names)
