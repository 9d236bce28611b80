"""Launches, connects and ends the processes of a run on several devices.

`torchrun` and `srun` start all of them, on one machine or many. Started without either, a command itself starts the
others on this machine, each with the same settings. In both cases a process that fails ends the run, which stays
unfinished and continues with resume=true, on any number of devices.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from tfew.devices.cpu import free_cores_only
from tfew.devices.distributed import rank, world_size
from tfew.devices.launch_env import PARENT, LaunchEnv, read_launch_env
from tfew.environment.cores import share_of_cores
from tfew.environment.versions import require
from tfew.errors import UserError

log = logging.getLogger(__name__)

PROCESS_WAIT = timedelta(minutes=30)  # timeout for other processes: the first may write, or load, alone
POLL_SECONDS = 0.2
GRACE_SECONDS = 5.0  # for the first process to notice by itself that another is gone
POLITE_SECONDS = 3.0  # delay of the others' errors: most likely the first has the same error and reports it
LOST = ("connection closed", "connection reset", "broken pipe", "connection refused", "nccl", "heartbeat", "gloo")


@dataclass(frozen=True)
class Workload:
    """The settings of the work to be shared that `check_workload` checks.

    `command` is the module with the function of that name that each process calls; `optimizer` its class's name.
    """

    command: str
    strategy: str
    batch_size: int
    micro_batch_size: int | None
    loss_mean: str
    memory_gb: float | None
    optimizer: str


@contextmanager
def launch(workload: Workload, accelerator: str, devices: int | str, settings_yaml: str) -> Iterator[int]:
    """A context in which all processes of the run are connected and run the same code; does nothing for one device.

    Yields their number. `settings_yaml`: the settings with which the other processes call the command.
    """
    launch_env = read_launch_env(os.environ)
    number = process_count(accelerator, devices, launch_env)
    check_workload(workload, number)
    if number == 1:
        with free_cores_only(accelerator):
            yield 1
        return
    outer = dict(os.environ), sys.excepthook, torch.get_num_threads()
    children = store = None
    try:
        if launch_env is None:
            store = torch.distributed.TCPStore("127.0.0.1", 0, number, is_master=True, wait_for_workers=False)
            launch_env = LaunchEnv(0, number, 0, number, "127.0.0.1", store.port, "this command")
            children = _ChildProcesses(workload.command, settings_yaml, launch_env)
        _connect(accelerator, launch_env, store)
        _log_start(workload, launch_env)
        yield number
    except BaseException as error:
        _disconnect(in_order=False)
        if isinstance(error, Exception) and not isinstance(error, UserError):
            if children is not None and (sentence := children.failure(wait_seconds=2 * POLITE_SECONDS)):
                raise UserError(sentence) from error
            if _is_lost(error):
                raise UserError(_ended("Another process of this run")) from error
        if isinstance(error, Exception) and launch_env is not None and launch_env.rank > 0:
            time.sleep(POLITE_SECONDS)
        raise
    else:
        _disconnect(in_order=True)
        if children is not None:
            children.wait()
    finally:
        if children is not None:
            children.end()
        os.environ.clear()
        os.environ.update(outer[0])
        sys.excepthook = outer[1]  # torch prefixes tracebacks with the rank
        torch.set_num_threads(outer[2])


def process_count(accelerator: str, devices: int | str, launch_env: LaunchEnv | None) -> int:
    """Number of processes of this run, from `trainer.devices`; raises UserError if it differs from the number that was
    started or exceeds the number of GPUs."""
    gpus = torch.cuda.device_count() if accelerator != "cpu" else 0
    if launch_env is not None:
        if devices not in ("auto", launch_env.world_size):
            raise UserError(
                f"{launch_env.starter} started {launch_env.world_size} processes, but trainer.devices={devices}: set"
                f" trainer=ddp or trainer.devices={launch_env.world_size}."
            )
        if 0 < gpus < launch_env.local_world_size:
            raise UserError(
                f"There are {launch_env.local_world_size} processes on this machine, and each sees {gpus} of its GPUs:"
                " make all GPUs visible to each (in Slurm --gpus-per-node, without --gpus-per-task)."
            )
        return launch_env.world_size
    if devices != "auto":
        if 0 < gpus < int(devices):
            raise UserError(f"trainer.devices={devices}, but there are {gpus} GPUs here.")
        return int(devices)
    if gpus <= 1:
        log.info("Note: there is one device here, and it does all the work; trainer.devices= says how many to use.")
    return max(1, gpus)


def check_workload(workload: Workload, number: int) -> None:
    """Raises UserError for settings with which the work cannot be shared by this number of processes."""
    strategy, batch_size = workload.strategy, workload.batch_size
    if strategy == "deepspeed_3":
        _check_deepspeed(workload.command, number)
    if number == 1:
        return
    if strategy != "ddp" and workload.memory_gb is not None:
        raise UserError(
            f"memory_gb={workload.memory_gb} lets each device halve its batches independently, but with"
            f" trainer={strategy} all run each pass together: set micro_batch_size= and eval_batch_size= instead."
        )
    if workload.command != "train":
        return
    if batch_size < number:
        raise UserError(
            f"batch_size={batch_size} examples cannot be shared by {number} devices: raise batch_size=, or use"
            " fewer (trainer.devices=)."
        )
    micro_batches = -(-batch_size // (workload.micro_batch_size or batch_size))
    if workload.loss_mean == "micro_batch" and micro_batches < number:
        raise UserError(
            f"fidelity.loss_mean=micro_batch averages micro-batches, and {micro_batches} cannot be shared by {number}"
            f" devices: set micro_batch_size={batch_size // number} or less."
        )


def _check_deepspeed(command: str, number: int) -> None:
    require("trainer=deepspeed_3", "deepspeed")
    if command != "train" or number == 1:
        raise UserError("trainer=deepspeed_3 is for training on several devices; elsewhere use another trainer=.")


def _log_start(workload: Workload, launch_env: LaunchEnv) -> None:
    machines = launch_env.world_size // launch_env.local_world_size
    log.info(f"{launch_env.world_size} devices share the work{'' if machines == 1 else f', on {machines} machines'}.")
    if workload.strategy == "deepspeed_3" and workload.optimizer == "Adafactor":
        log.info(
            "Note: with trainer=deepspeed_3 Adafactor sees flat parts of the trained weights, so its results differ"
            " from the recipe's; with trainer=ddp and fsdp they do not."
        )


def _connect(accelerator: str, launch_env: LaunchEnv, store: Any) -> None:
    os.environ.update(launch_env.environment())
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(launch_env.local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(share_of_cores(launch_env.local_world_size))
    if store is None and PARENT in os.environ:
        store = torch.distributed.TCPStore(launch_env.address, launch_env.port, launch_env.world_size, is_master=False)
    torch.distributed.init_process_group(
        "nccl" if gpu else "gloo",
        rank=launch_env.rank,
        world_size=launch_env.world_size,
        store=store,
        timeout=PROCESS_WAIT,
        device_id=torch.device("cuda", launch_env.local_rank) if gpu else None,
    )


def _disconnect(in_order: bool) -> None:
    """If processes are gone, nccl would wait for them, so it is left to end with this process."""
    if world_size() > 1 and (in_order or torch.distributed.get_backend() == "gloo"):
        torch.distributed.destroy_process_group()


def _is_lost(error: BaseException) -> bool:
    kinds = (torch.distributed.DistError, RuntimeError)
    return isinstance(error, kinds) and any(sign in str(error).lower() for sign in LOST)


def _ended(who: str, how: str = "") -> str:
    return f"{who} ended{how}, so the run is not finished; it continues with resume=true."


class _ChildProcesses:
    """The other processes on this machine, started with the same settings, and monitored."""

    def __init__(self, command: str, settings_yaml: str, main: LaunchEnv) -> None:
        self._processes = []
        for number in range(1, main.world_size):
            launch_env = LaunchEnv(
                number, main.world_size, number, main.world_size, main.address, main.port, main.starter
            )
            environment = {
                **os.environ,
                **launch_env.environment(),
                PARENT: str(os.getpid()),
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
                "TQDM_DISABLE": "1",
            }
            code = f"from tfew.devices.launcher import run_child; run_child({command!r})"
            process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE)
            assert process.stdin is not None
            process.stdin.write(settings_yaml.encode())
            process.stdin.close()
            self._processes.append(process)
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def failure(self, wait_seconds: float = 0) -> str | None:
        """A sentence on the process that failed, if any; waits up to this many seconds for a failure."""
        until = time.monotonic() + wait_seconds
        while True:
            for number, process in enumerate(self._processes, start=1):
                if code := process.poll():
                    how = f" (signal {-code})" if code < 0 else f" (exit code {code}; its output is above)"
                    return _ended(f"Process {number} (the first is 0)", how)
            if time.monotonic() >= until:
                return None
            time.sleep(0.05)

    def _watch(self) -> None:
        """Ends this process, too, if it waits for one that is gone and does not notice (as with nccl)."""
        while not self._over.wait(POLL_SECONDS):
            sentence = self.failure()
            if sentence and not self._over.wait(GRACE_SECONDS):
                print(sentence, file=sys.stderr, flush=True)
                self._kill()
                os._exit(1)

    def wait(self) -> None:
        """Waits for all to end normally, which they do right after the first."""
        self._over.set()
        for process in self._processes:
            try:
                process.wait(timeout=PROCESS_WAIT.total_seconds())
            except subprocess.TimeoutExpired:
                process.kill()

    def end(self) -> None:
        self._over.set()
        self._kill()

    def _kill(self) -> None:
        """Kills them; nothing is lost, since only the first process writes."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def run_child(command: str) -> None:
    """Entry point of a process that a command started: runs the same command with settings from standard input."""
    config = OmegaConf.create(sys.stdin.read())
    threading.Thread(target=_end_with, args=(int(os.environ[PARENT]),), daemon=True).start()
    try:
        getattr(import_module(f"tfew.{command}"), command)(config)
    except KeyboardInterrupt:
        sys.exit(1)
    except UserError as error:
        sys.exit(f"Process {rank()}: {error}")


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
