"""The progress bar of a sweep. A thread reads its state: launchers block until all jobs have ended."""

import sys
import threading
from collections.abc import Sequence

from tqdm import tqdm

from tfew.sweep.state import FAILED, FOUND, MADE, Outcome, SweepState

POLL_SECONDS = 0.5
TAIL_BYTES = 500


class SweepBar:
    """Two lines on standard error: runs made, failed and left, time left; and the last log line of a running job.

    Runs that were finished before are not counted: they would distort the estimate of the time left.
    """

    def __init__(self, state: SweepState, names: Sequence[str]) -> None:
        self._state, self._names = state, names
        self._outcomes: dict[int, Outcome] = {}
        self._note = ""
        self._bar = tqdm(total=len(names), desc="Runs", unit="run", smoothing=0, dynamic_ncols=True, file=sys.stderr)
        self._on_terminal = sys.stderr.isatty() and not self._bar.disable
        self._line = tqdm(bar_format="{desc}", position=1, leave=False, file=sys.stderr, disable=not self._on_terminal)
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def set_note(self, note: str) -> None:
        """Shows a note after the numbers."""
        self._note = note

    def outcomes(self) -> dict[int, Outcome]:
        """The outcomes of all settled jobs; updates the bar, too."""
        with self._lock:
            before = len(self._outcomes)
            for job in range(len(self._names)):
                outcome = None if job in self._outcomes else self._state.outcome(job)
                if outcome is not None and outcome.settled:
                    self._outcomes[job] = outcome
            if self._on_terminal or len(self._outcomes) > before:  # a log file gets no line without news
                self._refresh()
            return dict(sorted(self._outcomes.items()))

    def close(self) -> dict[int, Outcome]:
        self._stop.set()
        self._thread.join()
        outcomes = self.outcomes()
        self._line.close()
        self._bar.close()
        return outcomes

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self.outcomes()

    def _refresh(self) -> None:
        made, failed, found = (
            sum(outcome.status == status for outcome in self._outcomes.values()) for status in (MADE, FAILED, FOUND)
        )
        parts = [f"{failed} failed", f"{len(self._names) - len(self._outcomes)} left"]
        parts += [f"{found} finished before"] if found else []
        self._bar.total, self._bar.n = len(self._names) - found, made + failed
        self._bar.set_postfix_str(", ".join([*parts, self._note] if self._note else parts))
        if self._on_terminal:
            self._line.set_description_str(self._last_log_line())

    def _last_log_line(self) -> str:
        """The last line of a running job's log, where each update of a progress bar counts as a line."""
        running = self._state.running_jobs()
        path = self._state.log_path(running[0]) if running else None
        if path is None or not path.is_file():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
        lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
        return f"  {self._names[running[0]]}: {lines[-1]}"[: (self._bar.ncols or 100) - 1] if lines else ""
