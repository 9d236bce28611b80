"""The processes of a run on several devices: who starts them, how they find one another, and that they end together.

`torchrun` and `srun` start them all, on one machine or many. Started without either, a command starts the others on
this machine itself, each with the very settings that it has. Whichever way, a process that ends badly ends the run: it
stays unfinished, and continues with resume=true, on as many devices as one likes.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from tfew.devices.distributed import rank, world_size
from tfew.devices.launch_env import PARENT, LaunchEnv, read_launch_env
from tfew.errors import UserError

log = logging.getLogger(__name__)

PROCESS_WAIT = timedelta(minutes=30)  # for another process of the run: the first may write, or load, alone
POLL_SECONDS = 0.2
GRACE_SECONDS = 5.0  # that the first process has to notice for itself that another is gone
POLITE_SECONDS = 3.0  # that the others wait with an error that the first most likely has, too, and says
LOST = ("connection closed", "connection reset", "broken pipe", "connection refused", "nccl", "heartbeat", "gloo")


@contextmanager
def processes(config: DictConfig, command: str) -> Iterator[None]:
    """Inside, all processes of the run are there and connected, and run the same; with one device, nothing happens.

    `command` is the module with the function of that name that the others are to call with these settings, in which
    the number of devices is then set.
    """
    place = read_launch_env(os.environ)
    number = how_many(config, place)
    check(config, command, number)
    config.trainer.devices = number  # for the record
    if config.trainer.strategy == "deepspeed_3":
        config.engine = "plain"  # the other reads weights where no layer runs, and has not gathered them
    if number == 1:
        yield
        return
    outer = dict(os.environ), sys.excepthook, torch.get_num_threads()
    others = store = None
    try:
        if place is None:
            store = torch.distributed.TCPStore("127.0.0.1", 0, number, is_master=True, wait_for_workers=False)
            place = LaunchEnv(0, number, 0, number, "127.0.0.1", store.port, "this command")
            others = _Others(config, command, place)
        _connect(config, place, store)
        _say(config, place)
        yield
    except BaseException as error:
        _disconnect(in_order=False)
        if isinstance(error, Exception) and not isinstance(error, UserError):
            if others is not None and (sentence := others.failure(patience=2 * POLITE_SECONDS)):
                raise UserError(sentence) from error
            if _is_lost(error):
                raise UserError(_ended("Another process of this run")) from error
        if isinstance(error, Exception) and place is not None and place.rank > 0:
            time.sleep(POLITE_SECONDS)
        raise
    else:
        _disconnect(in_order=True)
        if others is not None:
            others.wait()
    finally:
        if others is not None:
            others.end()
        os.environ.clear()
        os.environ.update(outer[0])
        sys.excepthook = outer[1]  # torch marks what is said with the rank
        torch.set_num_threads(outer[2])


def how_many(config: DictConfig, place: LaunchEnv | None) -> int:
    """Processes of this run; raises UserError where what was asked for is not what was started, or is not here."""
    wanted, gpus = config.trainer.devices, torch.cuda.device_count() if config.trainer.accelerator != "cpu" else 0
    if place is not None:
        if wanted not in ("auto", place.world_size):
            raise UserError(
                f"{place.starter} started {place.world_size} processes, but trainer.devices={wanted}: say trainer=ddp"
                f" or trainer.devices={place.world_size}."
            )
        if 0 < gpus < place.local_world_size:
            raise UserError(
                f"There are {place.local_world_size} processes on this machine, and each sees {gpus} of its GPUs: let"
                " all see all (in Slurm --gpus-per-node, without --gpus-per-task)."
            )
        return place.world_size
    if wanted != "auto":
        if 0 < gpus < wanted:
            raise UserError(f"trainer.devices={wanted}, but there are {gpus} GPUs here.")
        return int(wanted)
    if gpus <= 1:
        log.info("Note: there is one device here, and it does all the work; trainer.devices= says how many to use.")
    return max(1, gpus)


def check(config: DictConfig, command: str, number: int) -> None:
    """Raises UserError for settings that so many processes cannot share."""
    strategy = config.trainer.strategy
    if strategy == "deepspeed_3":
        _check_deepspeed(command, number)
    if number == 1:
        return
    if strategy != "ddp" and config.memory_gb is not None:
        raise UserError(
            f"memory_gb={config.memory_gb} halves the work of each device by itself, and with trainer={strategy} all go"
            " through the model together: set micro_batch_size= and eval_batch_size= instead."
        )
    if command != "train":
        return
    if config.batch_size < number:
        raise UserError(
            f"batch_size={config.batch_size} examples cannot be shared by {number} devices: raise batch_size=, or use"
            " fewer (trainer.devices=)."
        )
    micro_batches = -(-config.batch_size // (config.micro_batch_size or config.batch_size))
    if config.fidelity.loss_mean == "micro_batch" and micro_batches < number:
        raise UserError(
            f"fidelity.loss_mean=micro_batch averages micro-batches, and {micro_batches} cannot be shared by {number}"
            f" devices: set micro_batch_size={config.batch_size // number} or less."
        )


def _check_deepspeed(command: str, number: int) -> None:
    if find_spec("deepspeed") is None:
        raise UserError(
            "trainer=deepspeed_3 needs DeepSpeed, which is not installed: pip install deepspeed, or use trainer=fsdp."
        )
    if command != "train" or number == 1:
        raise UserError("trainer=deepspeed_3 is for training on several devices; elsewhere use another trainer=.")


def _say(config: DictConfig, place: LaunchEnv) -> None:
    machines = place.world_size // place.local_world_size
    log.info(f"{place.world_size} devices share the work{'' if machines == 1 else f', on {machines} machines'}.")
    if config.trainer.strategy == "deepspeed_3" and config.optimizer._target_.endswith("Adafactor"):
        log.info(
            "Note: with trainer=deepspeed_3 Adafactor sees flat parts of what is trained, so its numbers are not those"
            " of the recipe; trainer=ddp and fsdp keep them."
        )


def _connect(config: DictConfig, place: LaunchEnv, store: Any) -> None:
    os.environ.update(place.environment())
    gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(place.local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // place.local_world_size))
    if store is None and PARENT in os.environ:
        store = torch.distributed.TCPStore(place.address, place.port, place.world_size, is_master=False)
    torch.distributed.init_process_group(
        "nccl" if gpu else "gloo",
        rank=place.rank,
        world_size=place.world_size,
        store=store,
        timeout=PROCESS_WAIT,
        device_id=torch.device("cuda", place.local_rank) if gpu else None,
    )


def _disconnect(in_order: bool) -> None:
    """Where processes are gone, nccl would wait for them: it ends with this process."""
    if world_size() > 1 and (in_order or torch.distributed.get_backend() == "gloo"):
        torch.distributed.destroy_process_group()


def _is_lost(error: BaseException) -> bool:
    kinds = (torch.distributed.DistError, RuntimeError)
    return isinstance(error, kinds) and any(sign in str(error).lower() for sign in LOST)


def _ended(who: str, how: str = "") -> str:
    return f"{who} ended{how}, and with it the run, which is not finished; it continues with resume=true."


class _Others:
    """The other processes on this machine, started with the same settings, and watched."""

    def __init__(self, config: DictConfig, command: str, first: LaunchEnv) -> None:
        settings = OmegaConf.to_yaml(config, resolve=True).encode()
        self._started = []
        for number in range(1, first.world_size):
            place = LaunchEnv(
                number, first.world_size, number, first.world_size, first.address, first.port, first.starter
            )
            environment = {
                **os.environ,
                **place.environment(),
                PARENT: str(os.getpid()),
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
                "TQDM_DISABLE": "1",
            }
            code = f"from tfew.devices.launcher import run_as_started; run_as_started({command!r})"
            process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE)
            assert process.stdin is not None
            process.stdin.write(settings)
            process.stdin.close()
            self._started.append(process)
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def failure(self, patience: float = 0) -> str | None:
        """Which process ended badly, as a sentence; waits so many seconds for one to."""
        until = time.monotonic() + patience
        while True:
            for number, process in enumerate(self._started, start=1):
                if code := process.poll():
                    how = f" (signal {-code})" if code < 0 else f" (exit code {code}; what it said stands above)"
                    return _ended(f"Process {number} (the first is 0)", how)
            if time.monotonic() >= until:
                return None
            time.sleep(0.05)

    def _watch(self) -> None:
        """Ends this process, too, where it waits for one that is gone and does not notice (as with nccl)."""
        while not self._over.wait(POLL_SECONDS):
            sentence = self.failure()
            if sentence and not self._over.wait(GRACE_SECONDS):
                print(sentence, file=sys.stderr, flush=True)
                self._kill()
                os._exit(1)

    def wait(self) -> None:
        """For all to end in good order, which they do at once after the first has."""
        self._over.set()
        for process in self._started:
            try:
                process.wait(timeout=PROCESS_WAIT.total_seconds())
            except subprocess.TimeoutExpired:
                process.kill()

    def end(self) -> None:
        self._over.set()
        self._kill()

    def _kill(self) -> None:
        """Nothing is lost with them: only the first process writes."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()


def run_as_started(command: str) -> None:
    """What a process does that a command started: the same, with the settings that come in on standard input."""
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
