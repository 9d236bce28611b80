"""The remaining time of a training and of those after it, logged once the first steps were timed."""

import logging
import time
from typing import Any

import pytorch_lightning as pl

from tfew.runs.units import duration

log = logging.getLogger(__name__)

UNCOUNTED_STEPS, COUNTED_STEPS = 1, 3  # the first step also fills caches
QUIET_SECONDS = 60.0  # shorter times are not logged


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
