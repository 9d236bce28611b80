"""The jobs of a sweep, as Hydra's sweeper makes them: the product of all values; the last setting varies fastest."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from tfew.config import hydra_at_work


def sweep_overrides(params: Mapping[str, Any] | None, command_line: Sequence[str]) -> list[Override]:
    """The overrides that define the jobs: `hydra.sweeper.params`, and the command line, which takes precedence."""
    parameters = [f"{key}={value}" for key, value in (params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    return parser.parse_overrides([*parameters, *command_line])


def split_jobs(overrides: list[Override]) -> list[list[str]]:
    """The overrides of each job, by its number."""
    return [job for batch in BasicSweeper.split_arguments(overrides, None) for job in batch]


def planned_jobs(sweep: str, command_line: Sequence[str] = (), config_name: str = "train") -> list[list[str]]:
    """The jobs of configs/sweep/SWEEP.yaml with this command line, for use from Python."""
    chosen = f"+sweep={sweep}"
    with hydra_at_work():
        config = compose(config_name, [chosen], return_hydra_config=True)
        return split_jobs(sweep_overrides(config.hydra.sweeper.params, [chosen, *command_line]))
