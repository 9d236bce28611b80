"""The state of a sweep's jobs: small files in a folder that all its processes share.

N.started    locked (tfew/runs/run_lock.py) while job N runs; a killed process leaves it unlocked
N.json       its outcome, written when it ends
N.log        its output; kept if it failed
owner        locked by the process that began the sweep
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

    `run`: the run's folder, if there is one.
    """

    status: str
    run: str | None = None
    error: str | None = None

    @property
    def settled(self) -> bool:
        return self.status != BUSY


@dataclass(frozen=True)
class SweepState:
    """Jobs are identified by their number in the sweep."""

    folder: Path

    def log_path(self, job: int) -> Path:
        return self.folder / f"{job}.log"

    @contextmanager
    def job_lock(self, job: int) -> Iterator[None]:
        """Holds a lock while the job runs."""
        with lock_file(self._lock_path(job)):
            yield

    def settle(self, job: int, outcome: Outcome) -> None:
        write_atomically(self._outcome_path(job), json.dumps(asdict(outcome)))

    def reset(self, job: int) -> None:
        """Forgets that the job was tried."""
        self._lock_path(job).unlink(missing_ok=True)
        self._outcome_path(job).unlink(missing_ok=True)

    def outcome(self, job: int) -> Outcome | None:
        try:
            return Outcome(**json.loads(self._outcome_path(job).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def running_jobs(self) -> list[int]:
        return [job for job in self._started_jobs() if is_locked(self._lock_path(job))]

    def dead_jobs(self) -> list[int]:
        """Jobs whose process ended without writing an outcome."""
        # in this order: an outcome is written before its lock is released
        return [
            job for job in self._started_jobs() if not is_locked(self._lock_path(job)) and self.outcome(job) is None
        ]

    def _started_jobs(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("*.started"))

    def _lock_path(self, job: int) -> Path:
        return self.folder / f"{job}.started"

    def _outcome_path(self, job: int) -> Path:
        return self.folder / f"{job}.json"
