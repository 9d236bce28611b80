"""Labels over HTTP, and a web page to try it: `python -m tfew.serve adapters=tasks.json port=8000`."""

import gc
import logging
import os
import socket
import ssl
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tfew.cli import command, overridden
from tfew.config import check_adapters, check_path_names
from tfew.decisions.request import DecisionSettings
from tfew.environment.cores import share_of_cores
from tfew.environment.versions import require
from tfew.errors import UserError
from tfew.prediction.tasks_file import Folders, task_folders
from tfew.settings import settings

if TYPE_CHECKING:
    from tfew.prediction.predictor import Predictor
    from tfew.service.limits import Limits
    from tfew.service.processes import Beat
    from tfew.service.server import Listening
    from tfew.service.shared_tasks import SharedTasks
    from tfew.service.tokens import Tokens

log = logging.getLogger("tfew.serve")  # __name__ is __main__ under python -m
LOCAL = ("localhost", "127.0.0.1", "[::1]")
OWN_SETTINGS = (
    "host", "port", "allowed_hosts", "max_items", "max_body_mb", "max_waiting", "max_table_rows", "max_connections",
    "timeout_seconds", "drain_seconds", "manage", "token", "insecure", "certificate", "key", "processes",
)  # fmt: skip
WHOLE = {
    "port": (0, 65535), "max_items": (1, 10**6), "max_waiting": (1, 10**7), "max_table_rows": (1, 10**8),
    "max_connections": (1, 10**6), "processes": (1, 1024),
}  # fmt: skip
SILENT_SECONDS = 30.0  # a worker that is silent for this long is replaced
POSITIVE = ("max_body_mb", "timeout_seconds", "drain_seconds")


def serve(config: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Serves until SIGTERM or Ctrl-C; `overrides`: of the command line."""
    _check(config)
    settings(DecisionSettings, config).check()
    _check_reach(config)
    require("tfew.serve", "serve")
    _limits(config)
    _check_port(config.host, config.port)
    check_adapters(config)
    folders = None if config.adapters is None else task_folders(Path(str(config.adapters)).expanduser())

    from tfew.service.tokens import load_tokens

    tokens = None if config.token is None else load_tokens(str(config.token))
    shared = _shared_tasks(config, folders)
    if shared is not None:
        shared.read()  # reports a damaged file now

    def load() -> "Predictor":
        # heavy imports only now, after the settings were checked
        from tfew.prediction.predictor import load_predictor
        from tfew.prediction.saved_run import saved_run

        of_prediction = [
            override for override in overrides if overridden([override])[0].partition(".")[0] not in OWN_SETTINGS
        ]
        find_run = partial(saved_run, config, of_prediction)
        predictor = load_predictor(find_run, config.adapter if folders is None else folders, config.merge)
        for task in predictor.tasks.values():
            _ = task.answering  # computed now, not at the first request
        return predictor

    def ready(port: int) -> None:
        scheme, tasks = "http" if config.certificate is None else "https", _number(len(folders or [""]), "task")
        several = "" if config.processes == 1 else f", {config.processes} processes"
        log.info(f"{scheme}://{config.host}:{port}: {tasks}{several}; Ctrl-C ends it.")

    if config.processes == 1:
        _serve(config, load(), tokens, folders, ready)
    else:
        _serve_many(config, load, tokens, folders, ready)


def _serve(
    config: DictConfig,
    predictor: "Predictor",
    tokens: "Tokens | None",
    folders: Folders,
    ready: Callable[[int], None],
    worker: "Worker | None" = None,
) -> None:
    """Serves in this process, which is `worker` if there are several."""
    from tfew.service import server
    from tfew.service.app import make_app
    from tfew.service.metrics import Metrics
    from tfew.service.queue import LabelQueue

    name = None if worker is None else str(worker.number)
    metrics = Metrics(name, None if worker is None else worker.folder)
    queue = LabelQueue(predictor, config.max_waiting, 2 * predictor.batch_size, metrics.observe_batch)
    # a worker's replacement keeps its name: changes wait for it
    member = None if worker is None else f"{worker.folder.name}-{name}"
    app = make_app(queue, metrics, _limits(config), tokens, _shared_tasks(config, folders, member))

    def each_second() -> None:
        metrics.observe_state(queue.unanswered, len(predictor.tasks), queue.oldest_seconds)
        metrics.publish()
        if worker is not None and not queue.is_stuck(config.timeout_seconds) and not worker.beat():
            queue.close()  # the parent has ended

    server.serve(app, queue, _listening(config), ready, None if worker is None else worker.sockets, each_second)


def _serve_many(
    config: DictConfig,
    load: Callable[[], "Predictor"],
    tokens: "Tokens | None",
    folders: Folders,
    ready: Callable[[int], None],
) -> None:
    """Serves in `processes=` child processes: on the CPU they share one model, on GPUs each has its own."""
    from tfew.service import processes
    from tfew.service.server import SHUTDOWN_TIMEOUT_SECONDS

    if not processes.HAS_FORK:
        raise UserError(f"processes={config.processes}: this system supports one only (no fork).")
    sockets = processes.bound_sockets(config.host, config.port)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads do not survive a fork
    gpus = 0 if config.trainer.accelerator == "cpu" else processes.gpu_count()
    whole = None if gpus else _loaded_by_one_thread(load)
    with tempfile.TemporaryDirectory(prefix="tfew-serve-") as name:

        def work(number: int, beat: "Beat") -> None:
            if gpus:
                visible = os.environ.get("CUDA_VISIBLE_DEVICES")
                os.environ["CUDA_VISIBLE_DEVICES"] = processes.visible_gpu(number, gpus, visible)
            import torch

            torch.set_num_threads(share_of_cores(config.processes))
            predictor = load() if whole is None else whole
            worker = Worker(number, Path(name), sockets, beat)
            _serve(config, predictor, tokens, folders, lambda port: worker.tell_ready(), worker)

        end_seconds = config.drain_seconds + 4 * SHUTDOWN_TIMEOUT_SECONDS
        port = sockets[0].getsockname()[1]
        processes.Supervisor(config.processes, work, sockets, SILENT_SECONDS, end_seconds, lambda: ready(port)).run()


@dataclass(frozen=True)
class Worker:
    """One of several processes. `folder`: where all write their metrics; `sockets`: shared by all for accepting."""

    number: int
    folder: Path
    sockets: Sequence[socket.socket]
    beat: "Beat"

    def tell_ready(self) -> None:
        self.beat()


def _loaded_by_one_thread(load: Callable[[], "Predictor"]) -> "Predictor":
    """Loads with a single thread, so that a fork of this process can compute: torch's threads do not survive a fork."""
    import torch

    torch.set_num_threads(1)
    predictor = load()
    gc.collect()
    gc.freeze()  # a collection in a fork would write to all pages of Python objects, and so copy them
    return predictor


def _shared_tasks(config: DictConfig, folders: Folders, member: str | None = None) -> "SharedTasks | None":
    """None if tasks cannot be added, or added tasks cannot be stored."""
    from tfew.service.shared_tasks import SharedTasks

    if config.manage is None or folders is None:
        return None
    try:
        return SharedTasks(Path(config.manage).expanduser(), folders, member)
    except UserError as error:
        if config.processes > 1:
            raise
        log.warning(f"Warning: {error} Tasks added over HTTP are lost when this process ends.")
        return None


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _limits(config: DictConfig) -> "Limits":
    from tfew.service.limits import Limits, host_names

    return Limits(
        max_items=config.max_items,
        max_body_bytes=int(config.max_body_mb * 1e6),
        timeout_seconds=config.timeout_seconds,
        allowed_hosts=(*LOCAL, config.host, *host_names(config.allowed_hosts)),
        manage=None if config.manage is None else Path(config.manage).expanduser(),
        table_rows=config.max_table_rows,
    )


def _listening(config: DictConfig) -> "Listening":
    from tfew.service.server import Listening

    return Listening(
        config.host, config.port, config.max_connections, config.timeout_seconds, config.drain_seconds,
        _file(config, "certificate"), _file(config, "key"),
    )  # fmt: skip


def _file(config: DictConfig, key: str) -> Path | None:
    return None if config[key] is None else Path(str(config[key])).expanduser()


def _check(config: DictConfig) -> None:
    if (config.adapter is None) == (config.adapters is None):
        raise UserError("There is nothing to serve: set adapter=runs/NAME, or adapters=tasks.json for many tasks.")
    check_path_names(config)
    for key, (least, most) in WHOLE.items():
        if type(config[key]) is not int or not least <= config[key] <= most:
            raise UserError(f"{key}={config[key]} is not a whole number from {least} to {most}.")
    for key in POSITIVE:
        if type(config[key]) not in (int, float) or not 0 < config[key] < float("inf"):
            raise UserError(f"{key}={config[key]} is not a number above 0.")
    if config.max_waiting < config.max_items:
        raise UserError(f"max_waiting={config.max_waiting} is below max_items={config.max_items}: no request fits.")
    if config.manage is not None and not Path(config.manage).expanduser().is_dir():
        raise UserError(f"manage={config.manage} is no folder.")
    if config.manage is not None and config.adapters is None:
        raise UserError("manage= adds and removes tasks, but adapter= serves a single one: use adapters=tasks.json.")


def _check_reach(config: DictConfig) -> None:
    """Raises UserError if other machines could reach the service without authentication."""
    if type(config.insecure) is not bool:
        raise UserError(f"insecure={config.insecure} is neither true nor false.")
    if config.token is None and not config.insecure and not _is_loopback(config.host):
        raise UserError(
            f"host={config.host} exposes the service to other machines without authentication: name a file of"
            " tokens with token=, or set insecure=true."
        )
    if (config.certificate is None) != (config.key is None):
        raise UserError("HTTPS needs both certificate= and key=, two PEM files.")
    for path in filter(None, (_file(config, "certificate"), _file(config, "key"))):
        if not path.is_file():
            raise UserError(f"{path} is no file: HTTPS needs certificate= and key=, two PEM files.")
    _check_certificate(_file(config, "certificate"), _file(config, "key"))


def _is_loopback(host: str) -> bool:
    """Whether every address of this name is a loopback address; an unknown name fails later, when listening."""
    if not host:  # all interfaces
        return False
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return True
    return all(ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def _check_certificate(certificate: Path | None, key: Path | None) -> None:
    if certificate is None or key is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:  # includes SSLError
        raise UserError(f"certificate={certificate} and key={key} do not match ({error}).") from error


def _check_port(host: str, port: int) -> None:
    """Raises UserError if the port is taken, before a model is loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UserError(f"host={host} port={port} cannot be listened on ({error.strerror}): choose another.") from error


@command("serve")
def main(config: DictConfig) -> None:
    serve(config, HydraConfig.get().overrides.task)


if __name__ == "__main__":
    main()
