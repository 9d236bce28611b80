"""What becomes of each job of a sweep: small files in a folder that all its processes see, wherever they run.

N.started    held (tfew/runs/run_lock.py) while job N runs; what a killed process leaves is held no more
N.json       its outcome, written when it ends
N.log        what it printed; kept where it failed
owner        held by the process that began the sweep
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tfew.files.atomic import write_atomically
from tfew.runs.run_lock import is_locked, lock_file

OWNER = "owner"
MADE, FOUND, FAILED, BUSY = "made", "found", "failed", "busy"


@dataclass(frozen=True)
class Outcome:
    """`status`: MADE; FOUND, it was finished before; FAILED with this `error`; BUSY, another process is making it.

    `run` is the run's folder, where there is one.
    """

    status: str
    run: str | None = None
    error: str | None = None

    @property
    def settled(self) -> bool:
        return self.status != BUSY


@dataclass(frozen=True)
class SweepState:
    """Jobs are told by their number in the sweep."""

    folder: Path

    def log_path(self, job: int) -> Path:
        return self.folder / f"{job}.log"

    @contextmanager
    def started(self, job: int) -> Iterator[Path]:
        """Around a job; yields a file that was written as it started."""
        with lock_file(self._mark(job)):
            yield self._mark(job)

    def settle(self, job: int, outcome: Outcome) -> None:
        write_atomically(self._outcome_path(job), json.dumps(asdict(outcome)))

    def forget(self, job: int) -> None:
        """As if the job had not been tried yet."""
        self._mark(job).unlink(missing_ok=True)
        self._outcome_path(job).unlink(missing_ok=True)

    def outcome(self, job: int) -> Outcome | None:
        try:
            return Outcome(**json.loads(self._outcome_path(job).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def running(self) -> list[int]:
        return [job for job in self._marked() if is_locked(self._mark(job))]

    def died(self) -> list[int]:
        """Jobs whose process ended without a word."""
        # in this order: an outcome is written before its mark is let go
        return [job for job in self._marked() if not is_locked(self._mark(job)) and self.outcome(job) is None]

    def _marked(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("*.started"))

    def _mark(self, job: int) -> Path:
        return self.folder / f"{job}.started"

    def _outcome_path(self, job: int) -> Path:
        return self.folder / f"{job}.json"
