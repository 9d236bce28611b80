"""Labels over HTTP, and a page to try them on: `python -m tfew.serve adapters=tasks.json port=8000`."""

import logging
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tfew.cli import command, overridden
from tfew.environment.versions import require
from tfew.errors import UserError
from tfew.prediction.tasks_file import task_folders

if TYPE_CHECKING:
    from tfew.service.limits import Limits

log = logging.getLogger("tfew.serve")  # __name__ is __main__ under python -m
LOCAL = ("localhost", "127.0.0.1", "[::1]")
OWN_SETTINGS = (
    "host", "port", "allowed_hosts", "max_items", "max_body_mb", "max_waiting", "timeout_seconds", "manage",
)  # fmt: skip
WHOLE = {"port": (0, 65535), "max_items": (1, 10**6), "max_waiting": (1, 10**7)}
POSITIVE = ("max_body_mb", "timeout_seconds")


def serve(config: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Until SIGTERM or Ctrl-C; `overrides`: what the command line says."""
    _check(config)
    require("tfew.serve", "serve")
    _check_port(config.host, config.port)
    folders = None if config.adapters is None else task_folders(Path(str(config.adapters)).expanduser())

    # heavy imports only now: the settings are known to be good
    from tfew.prediction.predictor import load_predictor
    from tfew.prediction.saved_run import saved_run
    from tfew.service import server
    from tfew.service.app import make_app
    from tfew.service.metrics import Metrics
    from tfew.service.queue import LabelQueue

    of_prediction = [
        override for override in overrides if overridden([override])[0].partition(".")[0] not in OWN_SETTINGS
    ]
    find_run = partial(saved_run, config, of_prediction)
    predictor = load_predictor(find_run, config.adapter if folders is None else folders, config.merge)
    metrics = Metrics()
    queue = LabelQueue(predictor, config.max_waiting, 2 * predictor.batch_size, metrics.observe_batch)
    app = make_app(queue, metrics, _limits(config))
    log.info(f"http://{config.host}:{config.port}: {_number(len(predictor.tasks), 'task')}; Ctrl-C ends it.")
    server.serve(app, queue, config.host, config.port)


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _limits(config: DictConfig) -> "Limits":
    from tfew.service.limits import Limits

    return Limits(
        max_items=config.max_items,
        max_body_bytes=int(config.max_body_mb * 1e6),
        timeout_seconds=config.timeout_seconds,
        allowed_hosts=(*LOCAL, config.host, *map(str, config.allowed_hosts)),
        manage=None if config.manage is None else Path(config.manage).expanduser(),
    )


def _check(config: DictConfig) -> None:
    if (config.adapter is None) == (config.adapters is None):
        raise UserError("Say whose labels to serve: adapter=runs/NAME, or adapters=tasks.json for many tasks.")
    for key, (least, most) in WHOLE.items():
        if type(config[key]) is not int or not least <= config[key] <= most:
            raise UserError(f"{key}={config[key]} is not a whole number from {least} to {most}.")
    for key in POSITIVE:
        if type(config[key]) not in (int, float) or not 0 < config[key] < float("inf"):
            raise UserError(f"{key}={config[key]} is not a number above 0.")
    if config.max_waiting < config.max_items:
        raise UserError(
            f"max_waiting={config.max_waiting} is below max_items={config.max_items}: no such request fits."
        )
    if config.manage is not None and not Path(config.manage).expanduser().is_dir():
        raise UserError(f"manage={config.manage} is no folder.")
    if config.manage is not None and config.adapters is None:
        raise UserError("manage= adds and removes tasks, and adapter= serves one alone: use adapters=tasks.json.")


def _check_port(host: str, port: int) -> None:
    """Before a model is loaded for nothing."""
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
