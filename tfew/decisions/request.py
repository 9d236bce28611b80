"""The prediction settings for doubtful rows: their valid values, and which of them exclude each other."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated

from tfew.errors import UserError, shorten_list
from tfew.settings import Settings, Share, check_value

Between = Annotated[float, Share(above=True)]
DECISION_SETTINGS = ("threshold", "coverage", "risk", "risk_confidence", "sets", "drift")
THRESHOLDS = ("threshold", "coverage", "risk")


@dataclass(frozen=True)
class DecisionSettings(Settings):
    """`threshold`: a probability, or one by task; `coverage`, `risk`: a threshold chosen on held-out rows.

    `risk_confidence`: of the guarantee for `risk`. `sets`: how often a set of labels should hold the right one.
    """

    threshold: float | Mapping[str, float] | None = None
    coverage: Between | None = None
    risk: Between | None = None
    risk_confidence: Between = 0.9
    sets: Between | None = None
    drift: bool = True

    def check(self, tasks: Collection[str] | None = None) -> None:
        """Raises UserError for values that cannot work, and where `threshold` names none of these tasks."""
        given = [name for name in THRESHOLDS if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(
                f"{' and '.join(f'{name}=' for name in given)} each set the threshold below which a row gets no label:"
                " give one of them."
            )
        for name in ("coverage", "risk", "sets", "risk_confidence"):
            check_value(name, getattr(self, name), Between if name == "risk_confidence" else Between | None)
        by_task = self.threshold if isinstance(self.threshold, Mapping) else {"": self.threshold}
        for name, value in by_task.items():
            key = f"threshold.{name}" if name else "threshold"
            check_value(key, value, Between if name else Between | None)
        named = set(map(str, self.threshold)) if isinstance(self.threshold, Mapping) else set()
        if tasks is not None and (unknown := named - set(tasks)):
            raise UserError(
                f"threshold= names unknown tasks ({shorten_list(unknown)}); known are {shorten_list(tasks)}."
            )

    def threshold_of(self, task: str) -> float | None:
        if isinstance(self.threshold, Mapping):
            found = self.threshold.get(task)
            return None if found is None else float(found)
        return None if self.threshold is None else float(self.threshold)

    @property
    def needs_held_out(self) -> str | None:
        """The setting that needs held-out rows, as the user wrote it."""
        return next((f"{name}={value:g}" for name in ("coverage", "risk", "sets")
                     if (value := getattr(self, name)) is not None), None)  # fmt: skip
