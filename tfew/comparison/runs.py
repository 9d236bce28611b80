"""Many ordinary runs in one process: variants x data sets x seeds, planned, run in turn, reduced to rows.

Imports and compilation are shared. The caller passes the commands that make runs, so this module does not import
training. No torch at import: a comparison whose runs are all finished does not need it.
"""

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from tfew.comparison.rows import Row, make_row
from tfew.errors import UserError
from tfew.runs.records import RECORD_FILE, RunRecord

# by command name: makes a run with these overrides; returns its record and folder
Commands = Mapping[str, Callable[[Sequence[str]], tuple[RunRecord, Path]]]


@dataclass(frozen=True)
class Variant:
    """One column of a comparison: a command (also the name of its root configuration) and its overrides.

    `seeded` False: few-shot seeds change nothing, so it runs once per data set.
    """

    name: str
    overrides: tuple[str, ...] = ()
    command: str = "train"
    seeded: bool = True


@dataclass(frozen=True)
class PlannedRun:
    """One run to be made; `overrides` are its whole command line."""

    variant: str
    dataset: str
    seed: int
    command: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class FailedRun:
    """A run that raised, and its message."""

    run: PlannedRun
    error: str


@dataclass(frozen=True)
class RunResults:
    """`rows` in the order of the plan, without the failures; `found`: how many of them were finished before."""

    rows: list[Row]
    failures: list[FailedRun]
    found: int
    seconds: float


def plan_runs(
    variants: Sequence[Variant], datasets: Sequence[str], seeds: Sequence[int], common: Sequence[str] = ()
) -> list[PlannedRun]:
    """All runs, data set by data set; the `common` overrides come before a variant's own."""
    return [
        PlannedRun(
            variant.name,
            dataset,
            seed,
            variant.command,
            (*common, f"dataset={dataset}", *variant.overrides, f"few_shot_seed={seed}"),
        )
        for dataset in datasets
        for variant in variants
        for seed in (seeds if variant.seeded else seeds[:1])
    ]


def run_all(planned: Sequence[PlannedRun], commands: Commands) -> RunResults:
    """Makes the runs that are not finished yet, under one progress bar; failures are collected, the others continue.

    KeyboardInterrupt is not caught: finished runs remain, and the same call continues.
    """
    started, seconds = time.time(), time.monotonic()
    rows, failures, found = [], [], 0
    with (
        tqdm(total=len(planned), desc="Runs", unit="run", file=sys.stderr, dynamic_ncols=True) as bar,
        silence_output(),
    ):
        for run in planned:
            bar.set_postfix_str(f"{run.variant}, {run.dataset}, seed {run.seed}")
            try:
                record, folder = commands[run.command](run.overrides)
                rows.append(make_row(record, run.variant, folder))
            except Exception as error:  # a run may fail in any way; the others continue
                failures.append(FailedRun(run, _error_message(error)))
                bar.update()
                continue
            if (folder / RECORD_FILE).stat().st_mtime < started:  # skipped: not counted in the time left
                found += 1
                bar.total -= 1
                bar.refresh()
            else:
                bar.update()
        bar.set_postfix_str("")
    return RunResults(rows, failures, found, time.monotonic() - seconds)


@contextlib.contextmanager
def silence_output() -> Iterator[None]:
    """Silences the runs' own summaries and progress bars; their records hold the same."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _error_message(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
