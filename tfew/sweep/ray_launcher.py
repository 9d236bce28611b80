"""Hydra's launcher for a sweep on a Ray cluster: each run is a task, on any machine with free resources.

Runs are on a disk that all machines share. Each job records its outcome (`tfew.sweep.job`), as with any launcher; a run
whose worker died is repeated in the next round (`tfew.sweep.rounds`).
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from tfew.devices.ray_cluster import connect

PLUGIN = "hydra_plugins.tfew_ray_launcher"


class RayLauncher(Launcher):
    """`num_cpus`, `num_gpus`: resources of a run; 0.25 GPUs put four runs on each."""

    def __init__(self, address: str, num_cpus: float, num_gpus: float) -> None:
        self._address, self._resources = address, {"num_cpus": num_cpus, "num_gpus": num_gpus}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._function, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs all jobs, in their order; raises the first of Ray's own errors when all other jobs have ended."""
        ray = connect(self._address, "hydra.launcher.address=")
        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        Path(str(self._config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        shared = [ray.put(each) for each in (self._context, self._config, self._function, Singleton.get_state())]
        task = ray.remote(execute_job).options(max_retries=0, **self._resources)
        jobs = [task.remote(initial_job_idx + place, list(each), *shared) for place, each in enumerate(job_overrides)]
        waiting, error = list(jobs), None
        while waiting:
            (ended, *_), waiting = ray.wait(waiting, num_returns=1)
            try:
                ray.get(ended)
            except ray.exceptions.RayError as lost:  # its worker or machine died: the others continue
                error = error or lost
        if error is not None:
            raise error
        returned: list[JobReturn] = ray.get(jobs)
        return returned


def execute_job(
    number: int, overrides: Sequence[str], context: HydraContext, config: DictConfig, function: TaskFunction,
    singletons: Mapping[Any, Any],
) -> JobReturn:  # fmt: skip
    """Executes one job, in the process that Ray has chosen."""
    setup_globals()
    Singleton.set_state(dict(singletons))
    own = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(own):
        own.hydra.job.id, own.hydra.job.num = f"{own.hydra.job.name}_{number}", number
    HydraConfig.instance().set_config(own)
    return run_job(
        task_function=function,
        config=own,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
    )


def register_launcher() -> None:
    """Registers the launcher: Hydra finds launchers in the package hydra_plugins only, so this module is added to it.

    A package of that name in this project would be imported at the start of every command, and Hydra does not find it
    in an editable installation.
    """
    sys.modules.setdefault(PLUGIN, sys.modules[__name__])
    RayLauncher.__module__ = PLUGIN
    Plugins.instance().register(RayLauncher)
