"""The members of a mixture: loading them, which are missing, and which files a user must supply."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfew.data.mixture import Mixture, MixtureSpec, make_part
from tfew.data.sources import find_source, is_local, load_split
from tfew.errors import UserError, shorten_list
from tfew.schema import Example

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedMixture:
    """The mixture of the available members, and the names of the missing ones (`dataset.missing=skip`)."""

    mixture: Mixture
    left_out: Sequence[str]

    def describe(self) -> dict[str, Any]:
        """For the run record: of the `available` rows each template takes the first `rows`."""
        members = {
            part.name: {
                "templates": len(part.templates),
                "available": len(examples),
                "rows": part.rows,
                "items": part.items,
            }
            for part, examples in zip(self.mixture.parts, self.mixture.examples, strict=True)
        }
        return {"members": members, "left_out": list(self.left_out)}


def load_mixture(spec: MixtureSpec, use: str, data_dir: Path | None) -> LoadedMixture:
    """Training rows of each member from `data_dir` or else the Hub; `use` is templates.use."""
    loaded, left_out = _load_members(spec, data_dir)
    parts = [make_part(spec.members[name], len(rows), spec.cap, use) for name, rows in loaded.items()]
    return LoadedMixture(Mixture(parts, list(loaded.values())), left_out)


def local_members(spec: MixtureSpec, data_dir: Path | None) -> MixtureSpec | None:
    """The mixture without members that only the Hub has; None if none is left."""
    members = {name: member for name, member in spec.members.items() if is_local(member, "train", data_dir)}
    return replace(spec, members=members) if members else None


def member_overview(
    spec: MixtureSpec, use: str, data_dir: Path | None, rows: Mapping[str, int]
) -> list[dict[str, Any]]:
    """One line per member, without loading any: its share of an epoch, its source, else the files to supply.

    `rows`: known numbers of rows, which replace the published ones.
    """
    published = {name: rows.get(name, member.rows["train"]) for name, member in spec.members.items()}
    parts = {name: make_part(member, published[name] or 0, spec.cap, use) for name, member in spec.members.items()}
    items = sum(part.items for part in parts.values())
    lines = []
    for name, part in parts.items():
        member, source = spec.members[name], find_source(spec.members[name], "train", data_dir)
        from_hub = source is not None and not is_local(member, "train", data_dir)
        lines.append(
            {
                "member": name,
                "templates": len(part.templates),
                "rows": published[name],
                "rows_per_template": part.rows,
                "items": part.items,
                "share": part.items / items if items else 0.0,
                "source": source,
                "verified": bool(member.hub and member.hub.get("verified", True)) if from_hub else source is not None,
                "bring": member.bring,
            }
        )
    return lines


def _load_members(spec: MixtureSpec, data_dir: Path | None) -> tuple[dict[str, Sequence[Example]], list[str]]:
    absent = {
        name: f"it is neither under data_dir={data_dir} nor known to load from the Hub"
        for name, member in spec.members.items()
        if find_source(member, "train", data_dir) is None
    }
    if absent and spec.missing == "error":  # raised before anything is downloaded
        raise _missing_members_error(spec, absent)
    loaded = {}
    for name, member in spec.members.items():
        if name in absent:
            continue
        local = is_local(member, "train", data_dir)
        try:
            loaded[name] = load_split(member, "train", data_dir if local else None)
        except UserError as error:
            if local:
                raise
            absent[name] = str(error)
    if absent and (spec.missing == "error" or not loaded):
        raise _missing_members_error(spec, absent)
    if absent:
        log.info(f"dataset.missing=skip: {len(absent)} of {len(spec.members)} members left out: {', '.join(absent)}.")
    return loaded, sorted(absent)


def _missing_members_error(spec: MixtureSpec, absent: Mapping[str, str]) -> UserError:
    first = next(iter(absent))
    return UserError(
        f"{len(absent)} of the {len(spec.members)} members of {spec.name} cannot be loaded: {shorten_list(absent, 40)}"
        f" ({first}: {absent[first].rstrip('.')}). Supply them (python -m tfew.preview dataset={spec.name} lists the"
        f" files of each), drop them with 'dataset.members.{first}=null', or skip all that are missing with"
        " dataset.missing=skip."
    )
