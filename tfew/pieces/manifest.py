"""The progress of an output in parts: a report for each part, and `manifest.json` for all.

A worker writes its part, its bad rows, and last its report (`done-NAME.json`), so that only whole parts count. The
manifest is written periodically, and at the end, when it includes all reports and their files are removed.
"""

import io
import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tfew.errors import UserError, shorten_list
from tfew.files.untrusted import parse_json
from tfew.pieces.part_store import PartStore

MANIFEST = "manifest.json"
SAVE_SECONDS = 60
OWN = re.compile(r"(part|bad|done)-\d{6}-\d{12}\.\w+|manifest\.json|bad_rows\.jsonl")


@dataclass(frozen=True)
class Report:
    """The result of a piece: its rows, how many were labelled and how many could not be, and label counts by task.

    `part`: the name of its file, None if no row was labelled; `seconds` it took; `columns` and `left_out`: of the
    input; `notes`: how the file was read; `problem`: of the first bad row;
    `several`: by task, rows that may have several labels.
    """

    name: str
    path: str
    first_row: int
    rows: int
    labelled: int
    bad: int
    size: int
    part: str | None
    seconds: float
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    columns: list[str] | None = None
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problem: str | None = None
    several: dict[str, int] = field(default_factory=dict)

    @property
    def bad_name(self) -> str:
        return f"bad-{self.name}.jsonl"

    @property
    def done_name(self) -> str:
        return f"done-{self.name}.json"

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)


class Manifest:
    """`identity`: must be unchanged to resume. Raises UserError if the folder holds something else."""

    def __init__(self, store: PartStore, identity: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
        self.store, self.identity = store, json.loads(json.dumps(identity))
        self.reports: dict[str, Report] = {}
        self._saved = time.monotonic()
        names = store.names()
        if foreign := [name for name in names if OWN.fullmatch(name) is None]:
            raise UserError(
                f"output={store.folder} holds files that are not part of an output ({shorten_list(foreign, 3)}):"
                " choose an empty or a new folder."
            )
        if names and (overwrite or not resume):
            if MANIFEST in names and self._load()["finished"] and not overwrite:
                raise self._is_finished()
            store.remove(names)
            names = set()
        if MANIFEST in names:
            self._go_on(names)
        elif names:
            raise UserError(f"output={store.folder} has no {MANIFEST}: set overwrite=true to start over.")
        else:
            self.save(finished=False)

    def _go_on(self, names: set[str]) -> None:
        saved = self._load()
        if saved["finished"]:
            raise self._is_finished()
        if saved["identity"] != self.identity:
            ours, theirs = self.identity, saved["identity"]
            unlike = ", ".join(sorted(key for key in ours if ours[key] != theirs.get(key)))
            raise UserError(
                f"output={self.store.folder} is a part of another output (different {unlike or 'settings'}): choose"
                " another output=, or set overwrite=true to start over."
            )
        self.reports = {report["name"]: Report(**report) for report in saved["parts"]}
        for name in sorted(name for name in names if name.startswith("done-")):
            if name.removeprefix("done-").removesuffix(".json") not in self.reports:
                report = Report(**parse_json(self.store.read(name).decode()))
                self.reports[report.name] = report

    def add(self, report: Report) -> None:
        self.reports[report.name] = report
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save(finished=False)

    @property
    def in_order(self) -> list[Report]:
        return [self.reports[name] for name in sorted(self.reports)]

    def save(self, finished: bool) -> None:
        parts = [asdict(report) for report in self.in_order]
        rows, labelled, bad = (sum(part[key] for part in parts) for key in ("rows", "labelled", "bad"))
        content = {
            "finished": finished, "rows": rows, "labelled": labelled, "bad": bad, "identity": self.identity,
            "parts": parts,
        }  # fmt: skip
        self.store.put(MANIFEST, io.BytesIO(json.dumps(content, ensure_ascii=False).encode()))
        self._saved = time.monotonic()

    def finish(self) -> None:
        """Writes `bad_rows.jsonl`, if there are any, and the manifest; removes the reports."""
        if any(report.bad for report in self.reports.values()):
            self.store.put("bad_rows.jsonl", io.BytesIO(b"".join(self.bad_rows())))
        self.save(finished=True)
        self.store.remove(name for name in self.store.names() if name.startswith(("done-", "bad-")))

    def bad_rows(self) -> list[bytes]:
        return [self.store.read(report.bad_name) for report in self.in_order if report.bad]

    def _load(self) -> dict[str, Any]:
        try:
            saved = parse_json(self.store.read(MANIFEST).decode())
            return {key: saved[key] for key in ("finished", "identity", "parts")}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.store.folder}/{MANIFEST} cannot be read ({error}): set overwrite=true to start over."
            ) from error

    def _is_finished(self) -> UserError:
        return UserError(f"output={self.store.folder} already exists: choose another, or set overwrite=true.")
