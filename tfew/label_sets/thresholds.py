"""Decision thresholds for multi-label rows: per label, the threshold with the best F1 on held-out rows.

Labels with few rows share one, with the best F1 over all labels together: 0.5 would give rare labels to no row.

The F1 on the rows that a threshold was chosen on is optimistic. `cross_fitted` gives each row the threshold chosen on
the other folds; the reported numbers use these, and the saved thresholds are chosen on all rows.
"""

from collections.abc import Sequence

import numpy as np

DEFAULT = 0.5
FEWEST = 5  # rows with the label, and without it: a threshold chosen on fewer would overfit
FOLDS = 5  # for rows that were all held out at once


def is_enough(has_R: np.ndarray) -> bool:
    """Whether enough rows have the label, and enough lack it, to choose a threshold."""
    return bool(FEWEST <= has_R.sum() <= len(has_R) - FEWEST)


def best_threshold(probability_R: np.ndarray, has_R: np.ndarray, otherwise: float = DEFAULT) -> float:
    """The threshold with the best F1; ties go to the nearest to 0.5, then to the higher.

    Halfway between two probabilities, or below all of them; `otherwise` if there are too few rows.
    """
    if not is_enough(has_R):
        return otherwise
    order_R = probability_R.argsort(kind="stable")
    distinct_T = np.unique(probability_R)
    candidate_T = np.append((distinct_T[1:] + distinct_T[:-1]) / 2, [distinct_T[0] / 2, DEFAULT])
    below_T = probability_R[order_R].searchsorted(candidate_T)  # rows that are not given the label
    missed = np.append(0, has_R[order_R].cumsum())
    right_T, given_T = has_R.sum() - missed[below_T], len(has_R) - below_T
    f1_T = 2 * right_T / (has_R.sum() + given_T)
    best_T = candidate_T[f1_T == f1_T.max()]
    return float(min(best_T, key=lambda threshold: (abs(threshold - DEFAULT), -threshold)))


def best_thresholds(probability_RK: np.ndarray, has_RK: np.ndarray) -> np.ndarray:
    """`[K]`: the best threshold per label; labels with too few rows share the best one over all labels."""
    shared = best_threshold(probability_RK.flatten(), has_RK.flatten())
    pairs = zip(probability_RK.T, has_RK.T, strict=True)
    return np.array([best_threshold(probability_R, has_R, shared) for probability_R, has_R in pairs])


def cross_fitted(probability_RK: np.ndarray, has_RK: np.ndarray, fold_R: np.ndarray) -> np.ndarray:
    """`[R, K]`: for each row the thresholds that are best on the rows of all other folds."""
    threshold_RK = np.full(probability_RK.shape, DEFAULT)
    for fold in np.unique(fold_R):
        others_R = fold_R != fold
        if others_R.any():
            threshold_RK[~others_R] = best_thresholds(probability_RK[others_R], has_RK[others_R])
    return threshold_RK


def folds_of(folds: Sequence[int | None]) -> np.ndarray:
    """The fold of each row; rows without one are assigned in turn."""
    return np.array([row % FOLDS if fold is None else fold for row, fold in enumerate(folds)])
