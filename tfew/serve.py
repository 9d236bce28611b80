"""Labels over HTTP, and a page to try them on: `python -m tfew.serve adapters=tasks.json port=8000`."""

import logging
import socket
import ssl
from collections.abc import Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tfew.cli import command, overridden
from tfew.decisions.request import DecisionSettings
from tfew.environment.versions import require
from tfew.errors import UserError
from tfew.prediction.tasks_file import task_folders
from tfew.settings import settings

if TYPE_CHECKING:
    from tfew.service.limits import Limits
    from tfew.service.server import Listening

log = logging.getLogger("tfew.serve")  # __name__ is __main__ under python -m
LOCAL = ("localhost", "127.0.0.1", "[::1]")
OWN_SETTINGS = (
    "host", "port", "allowed_hosts", "max_items", "max_body_mb", "max_waiting", "max_table_rows", "max_connections",
    "timeout_seconds", "drain_seconds", "manage", "token", "insecure", "certificate", "key",
)  # fmt: skip
WHOLE = {
    "port": (0, 65535), "max_items": (1, 10**6), "max_waiting": (1, 10**7), "max_table_rows": (1, 10**8),
    "max_connections": (1, 10**6),
}  # fmt: skip
POSITIVE = ("max_body_mb", "timeout_seconds", "drain_seconds")


def serve(config: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Until SIGTERM or Ctrl-C; `overrides`: what the command line says."""
    _check(config)
    settings(DecisionSettings, config).check()
    _check_reach(config)
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
    from tfew.service.tokens import load_tokens

    tokens = None if config.token is None else load_tokens(str(config.token))
    of_prediction = [
        override for override in overrides if overridden([override])[0].partition(".")[0] not in OWN_SETTINGS
    ]
    find_run = partial(saved_run, config, of_prediction)
    predictor = load_predictor(find_run, config.adapter if folders is None else folders, config.merge)
    for task in predictor.tasks.values():
        _ = task.answering  # read now, not when somebody asks for it
    metrics = Metrics()
    queue = LabelQueue(predictor, config.max_waiting, 2 * predictor.batch_size, metrics.observe_batch)
    app = make_app(queue, metrics, _limits(config), tokens)
    scheme, tasks = "http" if config.certificate is None else "https", _number(len(predictor.tasks), "task")

    def ready(port: int) -> None:
        log.info(f"{scheme}://{config.host}:{port}: {tasks}; Ctrl-C ends it.")

    server.serve(app, queue, _listening(config), ready)


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


def _check_reach(config: DictConfig) -> None:
    """Raises UserError where others could reach the service without being asked who they are."""
    if type(config.insecure) is not bool:
        raise UserError(f"insecure={config.insecure} is neither true nor false.")
    if config.token is None and not config.insecure and not _is_loopback(config.host):
        raise UserError(
            f"host={config.host} lets other machines reach the service, and nothing asks who they are: name a file of"
            " tokens with token=, or say insecure=true."
        )
    if (config.certificate is None) != (config.key is None):
        raise UserError("HTTPS needs both certificate= and key=, two PEM files.")
    for path in filter(None, (_file(config, "certificate"), _file(config, "key"))):
        if not path.is_file():
            raise UserError(f"{path} is no file: HTTPS needs certificate= and key=, two PEM files.")
    _check_certificate(_file(config, "certificate"), _file(config, "key"))


def _is_loopback(host: str) -> bool:
    """Whether each address of this name is; an unknown one is said when it is listened on."""
    if not host:  # every address
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
    except OSError as error:  # SSLError is one
        raise UserError(f"certificate={certificate} and key={key} do not go together ({error}).") from error


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
