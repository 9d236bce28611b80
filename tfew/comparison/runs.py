"""Many ordinary runs in one process: variants x data sets x seeds, planned, run in turn, reduced to rows.

What is imported and compiled once serves all of them. Which command makes a run is the caller's to say, so nothing
here knows of training. No torch at import: a comparison whose runs are all finished needs none.
"""

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from tfew.comparison.rows import Row, reduced
from tfew.errors import UserError
from tfew.runs.records import RECORD_FILE, RunRecord

# by name, what makes a run of these overrides; returns its record and folder
Commands = Mapping[str, Callable[[Sequence[str]], tuple[RunRecord, Path]]]


@dataclass(frozen=True)
class Variant:
    """One column of a comparison: a command (a root configuration's name too) and what it is told.

    `seeded` is false for what no few-shot seed changes: it runs once per data set.
    """

    name: str
    overrides: tuple[str, ...] = ()
    command: str = "train"
    seeded: bool = True


@dataclass(frozen=True)
class Planned:
    """One run to be made; `overrides` are all that its command line would say."""

    variant: str
    dataset: str
    seed: int
    command: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """A run that raised, and the sentence it raised."""

    run: Planned
    error: str


@dataclass(frozen=True)
class Outcome:
    """`rows` in the order of the plan, without the failures; `found` of them were finished before."""

    rows: list[Row]
    failures: list[Failure]
    found: int
    seconds: float


def plan(
    variants: Sequence[Variant], datasets: Sequence[str], seeds: Sequence[int], common: Sequence[str] = ()
) -> list[Planned]:
    """All runs, data set by data set; `common` goes to each, before a variant's own overrides."""
    return [
        Planned(
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


def run_all(planned: Sequence[Planned], commands: Commands) -> Outcome:
    """Makes the runs that are not finished yet, under one bar; one that fails is noted and the others go on.

    KeyboardInterrupt is let through: what is finished stays finished, and the same call continues.
    """
    started, seconds = time.time(), time.monotonic()
    rows, failures, found = [], [], 0
    with tqdm(total=len(planned), desc="Runs", unit="run", file=sys.stderr, dynamic_ncols=True) as bar, quiet():
        for run in planned:
            bar.set_postfix_str(f"{run.variant}, {run.dataset}, seed {run.seed}")
            try:
                record, folder = commands[run.command](run.overrides)
                rows.append(reduced(record, run.variant, folder))
            except Exception as error:  # a run may fail in any way; the others are none of its business
                failures.append(Failure(run, _sentence(error)))
                bar.update()
                continue
            if (folder / RECORD_FILE).stat().st_mtime < started:  # skipped: it says nothing on the time that is left
                found += 1
                bar.total -= 1
                bar.refresh()
            else:
                bar.update()
        bar.set_postfix_str("")
    return Outcome(rows, failures, found, time.monotonic() - seconds)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Runs print a summary and bars of their own, each of them; their records say the same."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
