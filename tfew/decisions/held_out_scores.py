"""Scores of the rows held out in training: probabilities of each choice, the right choice, and more."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class HeldOutScores:
    """R rows with at most C choices each; a choice that a row lacks has probability 0.

    `log_mass_R`: see `log_mass`. `in_folds`: each row was scored by the adapter of its fold; otherwise all were scored
    by the saved adapter.
    """

    probability_RC: np.ndarray
    label_R: np.ndarray
    log_mass_R: np.ndarray
    in_folds: bool

    @cached_property
    def rows(self) -> int:
        return len(self.label_R)

    @cached_property
    def predicted_R(self) -> np.ndarray:
        return self.probability_RC.argmax(-1)

    @cached_property
    def top_R(self) -> np.ndarray:
        """The probability of the predicted choice."""
        return self.probability_RC.max(-1)

    @cached_property
    def is_right_R(self) -> np.ndarray:
        return np.asarray(self.predicted_R == self.label_R)

    @cached_property
    def right_R(self) -> np.ndarray:
        """The probability of the right label."""
        return self.probability_RC[np.arange(self.rows), self.label_R]


def log_mass(sums_RMC: np.ndarray) -> np.ndarray:
    """`[R]`: log of the total probability of all choices, among everything the model might answer.

    From their log-probabilities (norm "sum"); the mean over templates. -inf: no such choice, or no such template.
    """
    top_RM = sums_RMC.max(-1)
    present_RM = np.isfinite(top_RM)
    shift_RM = np.where(present_RM, top_RM, 0)
    total_RM = np.where(present_RM, np.exp(sums_RMC - shift_RM[..., None]).sum(-1), 1)
    mass_R: np.ndarray = (np.where(present_RM, np.log(total_RM) + shift_RM, 0)).sum(1) / present_RM.sum(1)
    return mass_R
