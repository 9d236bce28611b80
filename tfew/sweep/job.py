"""One job of a sweep, in whatever process a launcher runs it: quiet, and whatever it raises is its own affair."""

import contextlib
import gc
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig

from tfew.errors import UserError
from tfew.runs.records import RECORD_FILE, RunRecord
from tfew.runs.run_lock import RunLocked
from tfew.sweep.state import BUSY, FAILED, FOUND, MADE, Outcome, SweepState

state: SweepState | None = None  # of the sweep that this process runs jobs of; tfew/sweep/callback.py sets it


def run_job(function: Callable[[], Any], runs: Path) -> Any:
    """Calls the command and writes down what came of it; None where it failed, or had been settled before.

    `runs`: the root of the runs.
    """
    if state is None:
        return function()
    number = int(HydraConfig.get().job.num)
    before = state.outcome(number)
    if before is not None and before.settled:
        return None
    with state.started(number) as mark:
        result, outcome = _attempt(function, runs, state.log_path(number), mark)
        state.settle(number, outcome)
    if outcome.status == MADE and not isinstance(result, RunRecord):  # no run: what it prints is what it is for
        print(state.log_path(number).read_text(encoding="utf-8"), end="", flush=True)
    if outcome.status != FAILED or not state.log_path(number).stat().st_size:
        state.log_path(number).unlink()
    gc.collect()  # what a traceback held on to, a model maybe
    return result


def _attempt(function: Callable[[], Any], runs: Path, log: Path, mark: Path) -> tuple[Any, Outcome]:
    with _printing_to(log), _interrupts() as interrupts:
        try:
            result = function()
            return result, _outcome(result, runs, mark)
        except RunLocked as error:
            return None, Outcome(BUSY, str(error.folder))
        except UserError as error:
            return None, Outcome(FAILED, error=str(error))
        except (Exception, SystemExit) as error:  # a job may fail in any way; the others are none of its business
            if interrupts:
                raise KeyboardInterrupt from error
            traceback.print_exc()
            return None, Outcome(FAILED, error=f"{type(error).__name__}: {' '.join(str(error).split())}")


def _outcome(result: Any, runs: Path, mark: Path) -> Outcome:
    if not isinstance(result, RunRecord):
        return Outcome(MADE)
    folder = runs / result.name
    # two times of one file system, which need not be the time of this machine
    finished_before = (folder / RECORD_FILE).stat().st_mtime < mark.stat().st_mtime
    return Outcome(FOUND if finished_before else MADE, str(folder))


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Grows with each Ctrl-C: an import that one meets, or a clean-up, makes an error of another name of it."""
    received: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    if threading.current_thread() is not threading.main_thread() or before != signal.default_int_handler:
        yield received  # somebody else's affair, and in a thread nothing is ever interrupted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    with (
        path.open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield
