"""Training, evaluation and prediction from Python, with the settings of the command line.

    >>> from tfew.api import Predictor, evaluate, train
    >>> record = train("+experiment=demo", steps=100)
    >>> print(record)
    >>> evaluate(adapter=record.folder, eval_rows=50).metrics["accuracy"]
    >>> Predictor.load(record.folder)([{...}])

Settings are given as on the command line ("loss=lm", "+experiment=rte") or as a keyword, with two underscores for a
dot (`optimizer__lr=1e-3`). Mistakes raise `tfew.errors.UserError`, a ValueError.
"""

import logging
import sys
from typing import TYPE_CHECKING, Any

from tfew.config import as_hydra, compose
from tfew.environment.versions import check_versions
from tfew.runs.records import RunRecord

if TYPE_CHECKING:
    from tfew.prediction.predictor import Predictor

__all__ = ["Predictor", "RunRecord", "evaluate", "train"]


def train(*overrides: str, **settings: Any) -> RunRecord:
    """As `tfew train OVERRIDES` does: trains, evaluates, and returns the run's record; a finished run is only read."""
    from tfew.train import train as run

    _prepare()
    return run(compose(*overrides, *_as_overrides(settings)))


def evaluate(*overrides: str, **settings: Any) -> RunRecord:
    """As `tfew evaluate OVERRIDES` does: `adapter=` a run folder, or none for the bare model."""
    from tfew.cli import with_run_settings
    from tfew.evaluate import evaluate as run

    _prepare()
    given = [*overrides, *_as_overrides(settings)]
    return run(with_run_settings(compose(*given, config_name="evaluate"), given))


def __getattr__(name: str) -> Any:
    """Imports `Predictor`, and with it torch, on first use."""
    if name != "Predictor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tfew.prediction.predictor import Predictor

    _prepare()
    return Predictor


def _as_overrides(settings: dict[str, Any]) -> list[str]:
    return [f"{key.replace('__', '.')}={as_hydra(value)}" for key, value in settings.items()]


def _prepare() -> None:
    check_versions()
    show_messages()


def show_messages() -> None:
    """Shows a run's messages on standard error, unless the program has set up logging itself."""
    log = logging.getLogger("tfew")
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
    if not log.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
