"""A sweep from its start to its summary, in rounds until every job has an outcome.

A round is one pass of Hydra's sweeper. A job that raises is settled; another round is needed if a process was killed in
the middle of a job (joblib then gives up all others, too), or if another sweep was making a run.
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

from tfew.errors import UserError
from tfew.runs.records import load_record
from tfew.runs.run_lock import LOCK_FILE, is_locked, lock_file
from tfew.sweep.bar import POLL_SECONDS, SweepBar
from tfew.sweep.state import BUSY, FAILED, FOUND, MADE, OWNER, Outcome, SweepState

FULL_ERROR = "HYDRA_FULL_ERROR"  # if 1, Hydra prints tracebacks
MAX_DEATHS = 3  # of a job's process; with joblib a job dies with its neighbour, so one death means little
MAX_RESULTS = 20  # in the summary
FOLDER = ".sweep"  # in the folder of all runs
CONTINUE_HINT = "The same command continues: finished runs are skipped."

current_sweep: "Sweep | None" = None  # begun by this process


class Sweep:
    """`jobs[number]`: the job's overrides; its name is those that not all jobs share. `root`: the runs' folder."""

    def __init__(self, root: Path, jobs: Sequence[Sequence[str]]) -> None:
        self._root = root
        common = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
        self._names = [" ".join(override for override in job if override not in common) for job in jobs]
        self._deaths: Counter[int] = Counter()
        self._settled, self._started = 0, time.monotonic()
        self._owner_lock = ExitStack()
        self.full_error = os.environ.get(FULL_ERROR) == "1"
        _remove_stale(root / FOLDER)
        self.state = SweepState(root.absolute() / FOLDER / f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}")
        self._owner_lock.enter_context(lock_file(self.state.folder / OWNER))
        print(f"Sweep of {len(jobs)} runs in {root}/", file=sys.stderr, flush=True)
        self._bar = SweepBar(self.state, self._names)

    def needs_another_round(self, error: Exception | None) -> bool:
        """Waits for running jobs and settles what it can; raises the launcher's error if there was no progress."""
        while self.state.running_jobs():  # if a launcher gave up when one of its processes died
            time.sleep(POLL_SECONDS)
        moved = self._wait_for_others() + self._count_deaths()
        settled = len(self._bar.outcomes())
        if settled == len(self._names):
            return False
        if not moved and settled == self._settled:
            raise error or RuntimeError(f"{len(self._names) - settled} jobs of the sweep were not started.")
        self._settled = settled
        return True

    def end(self) -> bool:
        """Prints the summary; returns whether no job failed."""
        outcomes = self._bar.close()
        print(f"\nSweep of {len(self._names)} runs in {self._root}/: {self._summary(outcomes)}.")
        self._print_results(outcomes)
        failed = {job: outcome for job, outcome in outcomes.items() if outcome.status == FAILED}
        for job, outcome in failed.items():
            print(f"  FAILED: {self._names[job]}: {outcome.error}")
            if self.state.log_path(job).is_file():
                print(f"          its log: {self.state.log_path(job)}")
        if failed:
            print(f"  {len(failed)} run{'s' * (len(failed) != 1)} failed. {CONTINUE_HINT}", flush=True)
        self._clean_up(list(failed))
        return not failed

    def _print_results(self, outcomes: Mapping[int, Outcome]) -> None:
        """The accuracy of each run that has a record."""
        runs = {job: outcomes[job].run for job in sorted(outcomes) if outcomes[job].status in (MADE, FOUND)}
        finished = [(job, Path(run)) for job, run in runs.items() if run is not None]
        for job, run in finished[:MAX_RESULTS]:
            with suppress(UserError):  # another process may have removed it
                print(f"  {self._names[job]}: {load_record(run).accuracy_in_words}")
        if len(finished) > MAX_RESULTS:
            print(f"  and {len(finished) - MAX_RESULTS} more; all: tfew paper report=true runs={self._root}")

    def abandon(self) -> str:
        """Ends the sweep before all jobs are settled; returns a summary."""
        outcomes = self._bar.close()
        self._clean_up([])
        return self._summary(outcomes)

    def _summary(self, outcomes: Mapping[int, Outcome]) -> str:
        numbers = {
            status: sum(outcome.status == status for outcome in outcomes.values()) for status in (MADE, FOUND, FAILED)
        }
        left = len(self._names) - len(outcomes)
        parts = [f"{numbers[MADE]} made", f"{numbers[FOUND]} finished before", f"{numbers[FAILED]} failed"]
        took = timedelta(seconds=round(time.monotonic() - self._started))
        return ", ".join([*parts, f"{left} left"] if left else parts) + f", in {took}"

    def _wait_for_others(self) -> int:
        """Waits for runs that other processes were making when their jobs started; returns how many there were.

        Their jobs start again: the run is finished then, or given up, and a job may have others to make.
        """
        busy = {}
        for job in range(len(self._names)):
            outcome = self.state.outcome(job)
            if outcome is not None and outcome.status == BUSY:
                busy[job] = Path(str(outcome.run))
        for job, run in busy.items():
            self._bar.set_note("waiting for another process")
            while is_locked(run / LOCK_FILE):
                time.sleep(POLL_SECONDS)
            self.state.reset(job)
        self._bar.set_note("")
        return len(busy)

    def _count_deaths(self) -> int:
        dead_jobs = self.state.dead_jobs()
        for job in dead_jobs:
            self.state.reset(job)
            self._deaths[job] += 1
            if self._deaths[job] == MAX_DEATHS:
                error = f"killed {MAX_DEATHS} times, or a process beside it was: out of memory?"
                self.state.settle(job, Outcome(FAILED, error=error))
        return len(dead_jobs)

    def _clean_up(self, failed: Sequence[int]) -> None:
        """Keeps only the logs of failed jobs, and then also those of a cluster's processes."""
        logs = [self.state.log_path(job) for job in failed]
        for path in self.state.folder.iterdir():
            if path not in logs and path.name != OWNER:
                path.unlink(missing_ok=True)
        self._owner_lock.close()
        root = self.state.folder.parent
        if not failed and not list(root.glob(f"*/{OWNER}")):  # else another sweep may need these
            rmtree(root / "submitit", ignore_errors=True)
            (root / "multirun.yaml").unlink(missing_ok=True)  # which Hydra writes
        for folder in (self.state.folder, root):
            with suppress(OSError):  # if not empty
                folder.rmdir()


def begin_sweep(root: Path, jobs: Sequence[Sequence[str]]) -> SweepState:
    """The state of this process's sweep: the first round begins it, later ones continue it."""
    global current_sweep
    if current_sweep is None:
        current_sweep = Sweep(root, jobs)
        os.environ[FULL_ERROR] = "1"  # so that the launcher raises to `run_in_rounds` instead of printing
    return current_sweep.state


def run_in_rounds(start: Callable[[], Any]) -> Any:
    """Calls Hydra's main, for a sweep until all jobs are settled; then prints a summary; exits 1 if a job failed."""
    try:
        while True:
            error = None
            try:
                result = start()
            except Exception as raised:
                error = raised
            if current_sweep is None:
                if error is not None:
                    raise error
                return result
            if not current_sweep.needs_another_round(error):
                break
    except BaseException as error:
        if current_sweep is None:
            raise
        so_far = current_sweep.abandon()
        if isinstance(error, KeyboardInterrupt):
            sys.exit(f"Interrupted: {so_far}. {CONTINUE_HINT}")
        if isinstance(error, CompactHydraException):  # a job that cannot be composed, before any was started
            sys.exit("\n".join(str(part) for part in (error, error.__cause__) if part is not None))
        if isinstance(error, Exception) and not current_sweep.full_error:
            sys.exit(f"The sweep cannot go on: {so_far}. {type(error).__name__}: {error} ({FULL_ERROR}=1 shows where.)")
        raise
    if not current_sweep.end():
        sys.exit(1)


def _remove_stale(root: Path) -> None:
    """Removes the folders of killed sweeps, and the logs of earlier ones."""
    for folder in root.glob("*-*-*"):
        if not is_locked(folder / OWNER):
            rmtree(folder, ignore_errors=True)
