"""A connection to a Ray cluster. Ray is an optional dependency, imported on use."""

import os
from pathlib import Path
from typing import Any

from tfew.environment.versions import require
from tfew.errors import UserError

AUTO, LOCAL = "auto", "local"
STORE_BYTES = 10**8  # of a cluster that is started here: only settings, paths and counts go from process to process


def connect(address: str, setting: str) -> Any:
    """The module ray, connected to the cluster at this address; AUTO: one that runs here, else as LOCAL: a new one.

    `setting`: the setting's name for messages. Raises UserError if Ray or the cluster is missing.
    """
    require(f"{setting}{address}", "ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return ray
    common: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "error",
        "runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(_import_paths()), "TQDM_DISABLE": "1"}},
    }
    try:
        if address != LOCAL:
            try:
                ray.init(address=address, **common)
                return ray
            except ConnectionError:
                if address != AUTO:
                    raise
        ray.init(address=LOCAL, include_dashboard=False, object_store_memory=STORE_BYTES, **common)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise UserError(
            f"{setting}{address}: no cluster answers there ({reason}); ray start --head starts one, and {setting}auto"
            " finds it on its own machine."
        ) from error
    return ray


def _import_paths() -> list[str]:
    """The import paths with which workers find this package, and those added to this process."""
    paths = [str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return list(dict.fromkeys(path for path in paths if path))
