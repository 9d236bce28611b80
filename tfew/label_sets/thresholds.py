"""From which probability on a row is given a label: the threshold with the best F1 on held-out rows, label by label.

Labels of few rows share one, with the best F1 over all labels together: 0.5 would give rare labels to no row.

An F1 on the rows that a threshold was chosen on is too good. `cross_fitted` gives each row the threshold that the
rows of the other folds choose, and what is reported is made with these; what is kept is chosen on all rows.
"""

from collections.abc import Sequence

import numpy as np

DEFAULT = 0.5
FEWEST = 5  # rows with the label, and without it: of fewer a threshold says more about these rows than about the model
FOLDS = 5  # of rows that were held out all at once


def is_enough(has_R: np.ndarray) -> bool:
    """Whether so many rows have the label, and so many have it not, that they can choose a threshold."""
    return bool(FEWEST <= has_R.sum() <= len(has_R) - FEWEST)


def best_threshold(probability_R: np.ndarray, has_R: np.ndarray, otherwise: float = DEFAULT) -> float:
    """The threshold with the best F1; of equally good ones the nearest to 0.5, and of two such the higher.

    Halfway between two probabilities, or below all of them; where rows are too few, `otherwise`.
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
    """`[K]`, of each label; of those with too few rows the one that is best over all labels."""
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
    """The fold of each row; rows without are dealt out in their order."""
    return np.array([row % FOLDS if fold is None else fold for row, fold in enumerate(folds)])
