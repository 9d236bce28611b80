"""T-Few: few-shot parameter-efficient fine-tuning with (IA)³ (Liu et al. 2022, arXiv 2205.05638).

In Python: `tfew.api`, and from it, imported when asked for, `tfew.Predictor`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfew.prediction.predictor import Predictor

__all__ = ["Predictor"]  # names that no module has


def __getattr__(name: str) -> Any:
    if name in __all__:
        from tfew import api

        return getattr(api, name)
    if name == "__version__":
        from tfew.environment.versions import own_version

        return own_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
