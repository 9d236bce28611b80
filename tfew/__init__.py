"""T-Few: few-shot parameter-efficient fine-tuning with (IA)³ (Liu et al. 2022, arXiv 2205.05638).

In Python: `tfew.fit`, `tfew.TfewClassifier` and `tfew.Predictor`, imported on first use, and `tfew.api`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfew.estimator.classifier import TfewClassifier
    from tfew.estimator.fit import fit
    from tfew.prediction.predictor import Predictor

__all__ = ["Predictor", "TfewClassifier", "fit"]  # names that no module has


def __getattr__(name: str) -> Any:
    if name == "fit":
        from tfew.estimator.fit import fit

        return fit
    if name == "TfewClassifier":
        from tfew.estimator.classifier import TfewClassifier

        return TfewClassifier
    if name == "Predictor":
        from tfew import api

        return api.Predictor
    if name == "__version__":
        from tfew.environment.versions import own_version

        return own_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
