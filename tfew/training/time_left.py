"""The remaining time of a training and of those after it, logged once the first steps were timed.

A warning reports steps that take much longer than estimated: on a busy machine threads wait for each other.
"""

import logging
import time
from typing import Any

import pytorch_lightning as pl

from tfew.runs.units import duration

log = logging.getLogger(__name__)

UNCOUNTED_STEPS, COUNTED_STEPS = 1, 3  # the first step also fills caches
QUIET_SECONDS = 60.0  # shorter times are not logged
SLOW = 3  # times as long as estimated: estimates were off by a factor of two at most on machines without other work

estimated_step_seconds: float | None = None  # of this process's run, if it was estimated; tfew/train.py sets it


class TimeLeft(pl.Callback):
    """`steps_after`: steps of the trainings that follow this one, in other folds or with other settings.

    A progress bar shows one training only.
    """

    def __init__(self, steps: int, steps_after: int) -> None:
        self.steps, self.steps_after = steps, steps_after
        self._made, self._started = 0, 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._made += 1
        if self._made == UNCOUNTED_STEPS:
            self._started = time.monotonic()
        if self._made == UNCOUNTED_STEPS + COUNTED_STEPS:
            self._log((time.monotonic() - self._started) / COUNTED_STEPS, self.steps - trainer.global_step)

    def _log(self, step_seconds: float, steps_left: int) -> None:
        seconds = step_seconds * (steps_left + self.steps_after)
        if seconds >= QUIET_SECONDS:
            after = f" and {self.steps_after:,} of the trainings after it" if self.steps_after else ""
            log.info(
                f"Time left: about {duration(seconds)}, for {steps_left:,} steps of this training{after}, at"
                f" {step_seconds:.2g} s a step."
            )
            if estimated_step_seconds is not None and step_seconds > SLOW * estimated_step_seconds:
                log.warning(
                    f"A step takes {step_seconds / estimated_step_seconds:.0f} times as long as estimated"
                    f" ({estimated_step_seconds:.2g} s): probably other processes use the same cores. Stop them, or set"
                    " OMP_NUM_THREADS to the number of free cores."
                )
