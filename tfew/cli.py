"""What all commands share: Hydra around the function, messages on stderr, one sentence for a user's mistake."""

import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from tfew.config import CONFIGS, LAUNCHER_NOTE
from tfew.devices.distributed import is_main_process
from tfew.errors import UserError
from tfew.sweep.job import run_job
from tfew.sweep.rounds import run_in_rounds

warnings.filterwarnings("ignore", message=LAUNCHER_NOTE)
# joblib starts a worker afresh that has grown, as each does with its first model
warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given to the executor")


def command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """Makes a function of the configuration a command.

    A `UserError` becomes an exception that Hydra prints without a traceback (HYDRA_FULL_ERROR=1 shows it); it exits
    with code 1. The jobs of a sweep (`-m`) each have a folder of their own, and whatever one raises, the others run.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        @hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)
        @wraps(function)
        def main(config: DictConfig) -> Any:
            _messages_to_stderr()
            try:
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    if "resume" in config:  # one that was stopped continues
                        config.resume = not config.overwrite
                    return run_job(function, config)
                return function(config)
            except UserError as error:
                raise CompactHydraException(str(error)) from error
            except OmegaConfBaseException as error:  # of a run's file, which somebody has changed
                what = str(error).splitlines()[0]
                raise CompactHydraException(f"The settings are not complete, or of another kind: {what}.") from error
            except KeyboardInterrupt:
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    raise
                sys.exit("Interrupted. An unfinished run continues with resume=true.")

        return partial(run_in_rounds, main)

    return decorate


def run_script(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """For a script of many runs: exits with what `main` returns of the arguments, or with one sentence."""
    try:
        sys.exit(main(sys.argv[1:]))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted. Finished runs are kept; the same command continues.")


def overridden(overrides: Sequence[str]) -> list[str]:
    """The keys and groups that these command-line overrides name."""
    return [override.key_or_group for override in OverridesParser.create().parse_overrides(list(overrides))]


class _ToStderr(logging.Handler):
    """Where standard error goes at the moment: a job of a sweep has it redirected."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def _messages_to_stderr() -> None:
    log = logging.getLogger("tfew")
    if not log.handlers:
        log.addHandler(_ToStderr())
        log.setLevel(logging.INFO if is_main_process() else logging.WARNING)
        log.propagate = False
