"""Hydra's callbacks at the start of a sweep and of each of its jobs (`hydra.callbacks` in configs/train.yaml)."""

import os
import sys
import threading
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from tfew.environment.versions import require
from tfew.errors import UserError
from tfew.sweep import job
from tfew.sweep.job_list import split_jobs, sweep_overrides
from tfew.sweep.rounds import begin_sweep
from tfew.sweep.state import SweepState


class SweepCallback(Callback):
    """`needs`: settings that the sweep requires; its file explains them.

    Launchers pickle the callback with the jobs: that is how their processes find the sweep's state.
    """

    def __init__(self, needs: Sequence[str] = ()) -> None:
        self.needs = tuple(needs)
        self.state: SweepState | None = None
        self._owner = os.getpid()

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        try:
            overrides = sweep_overrides(config.hydra.sweeper.params, config.hydra.overrides.task)
            self._check(config, overrides)
            _limit_processes(config)
            if str(config.hydra.launcher._target_).endswith(".RayLauncher"):
                require("hydra/launcher=ray", "ray")
                from tfew.sweep.ray_launcher import register_launcher

                register_launcher()
            self.state = begin_sweep(Path(str(config.runs)).expanduser(), split_jobs(overrides))
        except UserError as error:
            sys.exit(str(error))  # Hydra would only warn and continue

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        job.state = self.state
        if os.getppid() == self._owner:
            _exit_with_parent()

    def _check(self, config: DictConfig, overrides: Sequence[Override]) -> None:
        if config.run_dir is not None:
            raise UserError(
                f"run_dir={config.run_dir} is the folder of one run, and this is a sweep (-m): use runs= instead."
            )
        for key in self.needs:
            if key not in {override.key_or_group for override in overrides}:
                raise UserError(f"This sweep needs {key}=; the head of its file in configs/sweep describes it.")


@cache
def _exit_with_parent() -> None:
    """Without it joblib's workers outlive their parent, with their models in memory."""

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()


def _limit_processes(config: DictConfig) -> None:
    """submitit's local launcher starts all jobs of a batch at once, and by default a batch is the whole sweep."""
    one_machine = str(config.hydra.launcher._target_).endswith(".LocalLauncher")
    if one_machine and config.hydra.sweeper.max_batch_size is None:
        with read_write(config.hydra):
            config.hydra.sweeper.max_batch_size = os.cpu_count()
