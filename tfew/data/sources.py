"""Sources of rows: the Hub, local files as they are distributed, or one of the project's generators."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from tfew.data.dataset import DatasetSpec
from tfew.data.labels import LabelSetRule
from tfew.data.split import held_out_groups, held_out_rows, held_out_sets, normalized
from tfew.errors import UserError
from tfew.files.checksums import file_sha256
from tfew.schema import Example
from tfew.tables.formats import read_rows
from tfew.tables.hub_rows import load_from_hub
from tfew.tables.table_reader import read_table

log = logging.getLogger(__name__)


def load_split(spec: DatasetSpec, split: str, data_dir: Path | None, labelled: bool = True) -> Sequence[Example]:
    """All examples of the split "train" (the pool that shots are drawn from), "eval", or another that the files have.

    With `held_out`, "eval" is the rows held out of the training pool, and "train" the rest; rows with the same content
    are on one side. Rows of the Hub, and generated ones, are read lazily.
    """
    if not spec.held_out or not spec.held_out["share"] or split not in ("train", "eval"):
        return _load_whole_split(spec, split, data_dir, labelled)
    pool = _load_whole_split(spec, "train", data_dir, labelled=True)
    contents = [normalized("\n".join(str(example.fields.get(name)) for name in spec.columns)) for example in pool]
    share, seed = spec.held_out["share"], spec.held_out["seed"]
    if isinstance(spec.label, LabelSetRule):
        drawn = set(held_out_sets([example.labels or () for example in pool], contents, share, seed))
    else:
        strata = [example.label if spec.classes else None for example in pool]
        # runs of earlier versions lack `grouped`
        draw = held_out_groups if spec.held_out.get("grouped") else held_out_rows
        drawn = set(draw(strata, contents, share, seed))
    if not drawn:
        raise UserError(
            f"validation={spec.held_out['share']} of {len(pool)} rows holds out no row, or only duplicates of"
            " training rows: set a larger share, or folds=."
        )
    return [example for row, example in enumerate(pool) if (row in drawn) == (split == "eval")]


def has_split(spec: DatasetSpec, split: str) -> bool:
    """Whether the data set has a source for this split."""
    held_out = bool(spec.held_out and spec.held_out["share"]) and split == "eval"
    return held_out or any(source and source.get(split) for source in (spec.generator, spec.files, spec.hub))


def _load_whole_split(spec: DatasetSpec, split: str, data_dir: Path | None, labelled: bool) -> Sequence[Example]:
    if spec.generator is not None:
        from tfew.mini_t0.world import generate

        return spec.examples(generate(split=split, **spec.generator), f"generated {spec.name} {split} set", labelled)
    if spec.table is not None and spec.files[split]:
        return _table_examples(spec, split, labelled)
    if data_dir is None or spec.table is not None:
        return _hub_examples(spec, split, labelled)
    paths = find_files(spec, split, data_dir)
    if not paths:
        raise UserError(
            f"No {split} rows of {spec.name} under {data_dir}: looked for {_join_names(spec.files[split])}."
            f" Put one there, or name a file with 'dataset.files.{split}=[PATH]'."
        )
    rows = [row for path in paths for row in read_rows(path, spec.formats)]
    where = " + ".join(map(str, paths))
    expected = spec.rows.get(split)
    if expected is not None and len(rows) != expected:
        log.info(f"Note: {where} has {len(rows)} rows; the data set as published has {expected}.")
    return spec.examples(rows, where, labelled)


def _table_examples(spec: DatasetSpec, split: str, labelled: bool) -> Sequence[Example]:
    """Rows of a user's file; raises UserError if it has changed since the run's settings were inferred from it."""
    assert spec.table is not None
    path = Path(spec.files[split][0])
    if path.is_file() and file_sha256(path) != spec.table["sha256"]:
        raise UserError(
            f"{path} has changed since this run's settings were inferred from it: pass it again with data=."
        )
    return spec.examples(read_table(path).rows, str(path), labelled)


def find_source(spec: DatasetSpec, split: str, data_dir: Path | None, or_hub: bool = True) -> str | None:
    """A description of the split's source: generated, local files or the Hub; None if there is none.

    `or_hub` False: ignore the Hub.
    """
    if spec.generator is not None:
        return "generated" if spec.generator.get(split) else None
    if data_dir is not None and (paths := find_files(spec, split, data_dir)):
        return " + ".join(str(path.relative_to(data_dir)) for path in paths)
    if or_hub and spec.hub is not None and spec.hub[split] is not None:
        return f"Hub {spec.hub['id']}"
    return None


def is_local(spec: DatasetSpec, split: str, data_dir: Path | None) -> bool:
    """Whether the split can be loaded without the Hub."""
    return spec.generator is not None or (data_dir is not None and bool(find_files(spec, split, data_dir)))


def find_files(spec: DatasetSpec, split: str, data_dir: Path) -> list[Path]:
    """The first of the data set's file names, or groups of names, that exists under `data_dir`; empty if none does."""
    groups = [[names] if isinstance(names, str) else names for names in spec.files[split]]
    found = ([data_dir / name for name in group] for group in groups)
    return next((paths for paths in found if all(path.is_file() for path in paths)), [])


def _hub_examples(spec: DatasetSpec, split: str, labelled: bool) -> Sequence[Example]:
    """The rows of a Hub split; checks their number."""
    source = spec.hub
    if source is None or not source.get(split):
        raise UserError(
            f"{spec.name} cannot be loaded from the Hub (its loader there is a script, or its licence forbids it):"
            f" set data_dir= to a folder that holds {_join_names(spec.files[split])}."
        )
    loaded = load_from_hub(source, split, f"set data_dir= to a folder that holds {_join_names(spec.files[split])}")
    expected = spec.rows.get(split)
    if expected is not None and len(loaded) != expected:
        raise UserError(
            f"The Hub's {spec.name} {split} split has {len(loaded)} rows instead of {expected}: not the data of the"
            f" paper. If that is intended, set dataset.rows.{split}=null."
        )
    return spec.examples(loaded, f"{source['id']} {split}", labelled)


def _join_names(groups: Iterable[str | Sequence[str]]) -> str:
    return " or ".join(group if isinstance(group, str) else " + ".join(group) for group in groups)
