"""Runs one job of a sweep, in whatever process the launcher chose: its output is logged, its exceptions recorded."""

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
from tfew.runs.records import RunRecord
from tfew.runs.run_folder import asked_for
from tfew.runs.run_lock import RunLocked
from tfew.sweep.state import BUSY, FAILED, FOUND, MADE, Outcome, SweepState

state: SweepState | None = None  # of the sweep that this process runs jobs of; tfew/sweep/callback.py sets it


def run_job(function: Callable[[], Any]) -> Any:
    """Calls the command and records the outcome; None if it failed, or was settled before."""
    if state is None:
        return function()
    number = int(HydraConfig.get().job.num)
    before = state.outcome(number)
    if before is not None and before.settled:
        return None
    with state.job_lock(number):
        result, outcome = _attempt(function, state.log_path(number))
        state.settle(number, outcome)
    if outcome.status == MADE and not isinstance(result, RunRecord):  # a command whose result is its output
        print(state.log_path(number).read_text(encoding="utf-8"), end="", flush=True)
    if outcome.status != FAILED or not state.log_path(number).stat().st_size:
        state.log_path(number).unlink()
    gc.collect()  # tracebacks may keep a model alive
    return result


def _attempt(function: Callable[[], Any], log: Path) -> tuple[Any, Outcome]:
    with _redirect_output(log), _record_interrupts() as interrupts:
        asked_for.clear()
        try:
            return function(), _outcome()
        except RunLocked as error:
            return None, Outcome(BUSY, str(error.folder))
        except UserError as error:
            return None, Outcome(FAILED, error=str(error))
        except (Exception, SystemExit) as error:  # of any kind: the other jobs continue
            if interrupts:
                raise KeyboardInterrupt from error
            traceback.print_exc()
            return None, Outcome(FAILED, error=f"{type(error).__name__}: {' '.join(str(error).split())}")


def _outcome() -> Outcome:
    """Of a job that ended well; with its folder if it is of a single run."""
    status = MADE if not asked_for or any(asked_for.values()) else FOUND
    return Outcome(status, str(next(iter(asked_for))) if len(asked_for) == 1 else None)


@contextlib.contextmanager
def _record_interrupts() -> Iterator[list[int]]:
    """Yields the list of SIGINTs received: imports and clean-ups may turn KeyboardInterrupt into other exceptions."""
    received: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    if threading.current_thread() is not threading.main_thread() or before != signal.default_int_handler:
        yield received  # another handler is installed; threads are never interrupted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _redirect_output(path: Path) -> Iterator[None]:
    with (
        path.open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield
