"""What all commands share: Hydra around the function, messages on stderr, one sentence for a user's mistake."""

import logging
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from tfew.config import CONFIGS
from tfew.errors import UserError
from tfew.ranks import is_first


def command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """Makes a function of the configuration a command.

    A `UserError` becomes an exception that Hydra prints without a traceback (HYDRA_FULL_ERROR=1 shows it); it exits
    with code 1, and in a sweep (`-m`) the other jobs still run, which `sys.exit` would prevent.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        @hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)
        @wraps(function)
        def main(config: DictConfig) -> Any:
            _messages_to_stderr()
            try:
                _adapt_to_sweep(config)
                return function(config)
            except UserError as error:
                raise CompactHydraException(str(error)) from error
            except KeyboardInterrupt:
                sys.exit("Interrupted. An unfinished run continues with resume=true.")

        return main

    return decorate


def overridden(overrides: Sequence[str]) -> list[str]:
    """The keys and groups that these command-line overrides name."""
    return [override.key_or_group for override in OverridesParser.create().parse_overrides(list(overrides))]


def _adapt_to_sweep(config: DictConfig) -> None:
    """The jobs of a sweep (`-m`) each have a folder of their own, and one that was stopped continues."""
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return
    if config.run_dir is not None:
        raise UserError(
            f"run_dir={config.run_dir} is the folder of one run, and this is a sweep (-m): use runs= instead."
        )
    config.resume = not config.overwrite


def _messages_to_stderr() -> None:
    log = logging.getLogger("tfew")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO if is_first() else logging.WARNING)
        log.propagate = False
