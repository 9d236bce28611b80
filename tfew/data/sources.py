"""Where rows come from: the Hub, local files in their distributed form, or a generator of the project's own."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from tfew import hub
from tfew.data.dataset import DatasetSpec
from tfew.data.formats import read_rows
from tfew.errors import UserError
from tfew.schema import Example

log = logging.getLogger(__name__)


def load_split(spec: DatasetSpec, split: str, data_dir: Path | None) -> Sequence[Example]:
    """All examples of the split "train" (the pool that shots are drawn from) or "eval".

    Rows of the Hub, and generated ones, are read when they are asked for.
    """
    if spec.generator is not None:
        from tfew.mini_t0.world import generate

        return spec.examples(generate(split=split, **spec.generator), f"generated {spec.name} {split} set")
    if data_dir is None:
        return _hub_examples(spec, split)
    paths = find_files(spec, split, data_dir)
    if not paths:
        raise UserError(
            f"No {split} rows of {spec.name} under {data_dir}: looked for {_listing(spec.files[split])}."
            f" Put one there, or name a file with 'dataset.files.{split}=[PATH]'."
        )
    rows = [row for path in paths for row in read_rows(path, spec.formats)]
    where = " + ".join(map(str, paths))
    expected = spec.rows[split]
    if expected is not None and len(rows) != expected:
        log.info(f"Note: {where} has {len(rows)} rows; the data set as published has {expected}.")
    return spec.examples(rows, where)


def find_source(spec: DatasetSpec, split: str, data_dir: Path | None, or_hub: bool = True) -> str | None:
    """Where rows of the split would come from, in words: made in process, local files, the Hub; None: nowhere.

    `or_hub` False: leave the Hub aside.
    """
    if spec.generator is not None:
        return "generated" if spec.generator.get(split) else None
    if data_dir is not None and (paths := find_files(spec, split, data_dir)):
        return " + ".join(str(path.relative_to(data_dir)) for path in paths)
    if or_hub and spec.hub is not None and spec.hub[split] is not None:
        return f"Hub {spec.hub['id']}"
    return None


def is_local(spec: DatasetSpec, split: str, data_dir: Path | None) -> bool:
    """Whether rows of the split can be had without the Hub."""
    return spec.generator is not None or (data_dir is not None and bool(find_files(spec, split, data_dir)))


def find_files(spec: DatasetSpec, split: str, data_dir: Path) -> list[Path]:
    """The first of the data set's known file names, or groups of names, that exists under `data_dir`; else empty."""
    groups = [[names] if isinstance(names, str) else names for names in spec.files[split]]
    found = ([data_dir / name for name in group] for group in groups)
    return next((paths for paths in found if all(path.is_file() for path in paths)), [])


def _hub_examples(spec: DatasetSpec, split: str) -> Sequence[Example]:
    """No revision hash can be vouched for here, so the size of what came is what is checked."""
    source = spec.hub
    if source is None or source[split] is None:
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
    expected = spec.rows[split]
    if expected is not None and len(loaded) != expected:
        raise UserError(
            f"The Hub's {spec.name} {split} split has {len(loaded)} rows instead of {expected}: not the data of the"
            f" paper. If that is meant, say dataset.rows.{split}=null."
        )
    return spec.examples(loaded, f"{source['id']} {split}")


def _listing(groups: Iterable[str | Sequence[str]]) -> str:
    return " or ".join(group if isinstance(group, str) else " + ".join(group) for group in groups)
