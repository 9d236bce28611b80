"""A sweep from its start to its summary: rounds, until every job has an outcome.

A round is one pass of Hydra's sweeper. What a job raises is settled within it; another round is needed where a process
was killed in the middle of a job (joblib then gives up all others, too), or where another sweep was making a run.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path
from shutil import rmtree
from typing import Any

from hydra.errors import CompactHydraException

from tfew.runs.records import RECORD_FILE
from tfew.runs.run_lock import LOCK_FILE, is_locked, lock_file
from tfew.sweep.bar import EVERY_SECONDS, SweepBar
from tfew.sweep.state import BUSY, FAILED, FOUND, MADE, OWNER, Outcome, SweepState

FULL_ERROR = "HYDRA_FULL_ERROR"  # set to 1, Hydra shows where an exception comes from
MAX_DEATHS = 3  # of a job's process; with joblib a job dies with its neighbour, so one death means little
FOLDER = ".sweep"  # in the root of the runs
AGAIN = "The same command continues: finished runs are skipped."

current: "Sweep | None" = None  # the one that this process has begun


class Sweep:
    """`jobs[number]` is what the job's command line says; what it has of its own is its name. `root`: of the runs."""

    def __init__(self, root: Path, jobs: Sequence[Sequence[str]]) -> None:
        self._root = root
        common = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
        self._names = [" ".join(override for override in job if override not in common) for job in jobs]
        self._deaths: Counter[int] = Counter()
        self._settled, self._started = 0, time.monotonic()
        self._owned = ExitStack()
        self.full_error = os.environ.get(FULL_ERROR) == "1"
        _remove_dead(root / FOLDER)
        self.state = SweepState(root.absolute() / FOLDER / f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}")
        self._owned.enter_context(lock_file(self.state.folder / OWNER))
        print(f"Sweep of {len(jobs)} runs in {root}/", file=sys.stderr, flush=True)
        self._bar = SweepBar(self.state, self._names)

    def needs_another_round(self, error: Exception | None) -> bool:
        """Waits for what still runs and settles what can be; raises the launcher's error where it came to nothing."""
        while self.state.running():  # of a launcher that gave up when one of its processes died
            time.sleep(EVERY_SECONDS)
        moved = self._await_others() + self._count_deaths()
        settled = len(self._bar.outcomes())
        if settled == len(self._names):
            return False
        if not moved and settled == self._settled:
            raise error or RuntimeError(f"{len(self._names) - settled} jobs of the sweep were not started.")
        self._settled = settled
        return True

    def end(self) -> bool:
        """The summary, on standard output; whether all went well."""
        outcomes = self._bar.close()
        print(f"\nSweep of {len(self._names)} runs in {self._root}/: {self._counts(outcomes)}.")
        failed = {job: outcome for job, outcome in outcomes.items() if outcome.status == FAILED}
        for job, outcome in failed.items():
            print(f"  FAILED: {self._names[job]}: {outcome.error}")
            if self.state.log_path(job).is_file():
                print(f"          its log: {self.state.log_path(job)}")
        if failed:
            print(f"  {len(failed)} runs failed. {AGAIN}", flush=True)
        self._clean(list(failed))
        return not failed

    def abandon(self) -> str:
        """Where it ends before its jobs are settled; returns how far it came."""
        outcomes = self._bar.close()
        self._clean([])
        return self._counts(outcomes)

    def _counts(self, outcomes: Mapping[int, Outcome]) -> str:
        numbers = {
            status: sum(outcome.status == status for outcome in outcomes.values()) for status in (MADE, FOUND, FAILED)
        }
        left = len(self._names) - len(outcomes)
        parts = [f"{numbers[MADE]} made", f"{numbers[FOUND]} finished before", f"{numbers[FAILED]} failed"]
        took = timedelta(seconds=round(time.monotonic() - self._started))
        return ", ".join([*parts, f"{left} left"] if left else parts) + f", in {took}"

    def _await_others(self) -> int:
        """Runs that another process was making when their turn came: waits until it has ended; their number."""
        busy = {}
        for job in range(len(self._names)):
            outcome = self.state.outcome(job)
            if outcome is not None and outcome.status == BUSY:
                busy[job] = Path(str(outcome.run))
        for job, run in busy.items():
            self._bar.say("waiting for another process")
            while is_locked(run / LOCK_FILE):
                time.sleep(EVERY_SECONDS)
            if (run / RECORD_FILE).is_file():
                self.state.settle(job, Outcome(FOUND, str(run)))
            else:
                self.state.forget(job)
        self._bar.say("")
        return len(busy)

    def _count_deaths(self) -> int:
        died = self.state.died()
        for job in died:
            self.state.forget(job)
            self._deaths[job] += 1
            if self._deaths[job] == MAX_DEATHS:
                error = f"killed {MAX_DEATHS} times, or a process beside it was: for want of memory?"
                self.state.settle(job, Outcome(FAILED, error=error))
        return len(died)

    def _clean(self, failed: Sequence[int]) -> None:
        """Leaves the logs of failed jobs (and of a cluster's processes, then), and nothing where none failed."""
        logs = [self.state.log_path(job) for job in failed]
        for path in self.state.folder.iterdir():
            if path not in logs and path.name != OWNER:
                path.unlink(missing_ok=True)
        self._owned.close()
        root = self.state.folder.parent
        if not failed and not list(root.glob(f"*/{OWNER}")):  # else another sweep may need these
            rmtree(root / "submitit", ignore_errors=True)
            (root / "multirun.yaml").unlink(missing_ok=True)  # which Hydra writes
        for folder in (self.state.folder, root):
            with suppress(OSError):  # of what is not empty
                folder.rmdir()


def begin(root: Path, jobs: Sequence[Sequence[str]]) -> SweepState:
    """The state of the sweep that this process runs: the first round begins it, later ones go on with it."""
    global current
    if current is None:
        current = Sweep(root, jobs)
        os.environ[FULL_ERROR] = "1"  # what the launcher raises comes to `in_rounds` instead of being printed
    return current.state


def in_rounds(start: Callable[[], Any]) -> Any:
    """Calls Hydra's main, for a sweep as often as it takes; a sweep ends with its summary, and fails if a job did."""
    try:
        while True:
            error = None
            try:
                result = start()
            except Exception as raised:
                error = raised
            if current is None:
                if error is not None:
                    raise error
                return result
            if not current.needs_another_round(error):
                break
    except BaseException as error:
        if current is None:
            raise
        so_far = current.abandon()
        if isinstance(error, KeyboardInterrupt):
            sys.exit(f"Interrupted: {so_far}. {AGAIN}")
        if isinstance(error, CompactHydraException):  # a job that cannot be composed, before any was started
            sys.exit("\n".join(str(part) for part in (error, error.__cause__) if part is not None))
        if isinstance(error, Exception) and not current.full_error:
            sys.exit(f"The sweep cannot go on: {so_far}. {type(error).__name__}: {error} ({FULL_ERROR}=1 shows where.)")
        raise
    if not current.end():
        sys.exit(1)


def _remove_dead(root: Path) -> None:
    """Folders of sweeps that were killed, and logs of failed runs of earlier ones."""
    for folder in root.glob("*-*-*"):
        if not is_locked(folder / OWNER):
            rmtree(folder, ignore_errors=True)
