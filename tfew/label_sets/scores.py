"""Multi-label metrics; definitions are scikit-learn's.

Arrays are bool, `[R, K]`: whether each of R rows has each of K labels. 0/0 counts as 0.
"""

from typing import Any

import numpy as np


def by_label(has_RK: np.ndarray, given_RK: np.ndarray) -> list[dict[str, Any]]:
    """precision, recall and f1 of each label, and how many rows have it and were given it."""
    right_K, rows_K, given_K = ((has_RK & given_RK).sum(0), has_RK.sum(0), given_RK.sum(0))
    return [
        {
            "precision": _share(right, given),
            "recall": _share(right, rows),
            "f1": _share(2 * right, rows + given),
            "rows": int(rows),
            "predicted": int(given),
        }
        for right, rows, given in zip(right_K, rows_K, given_K, strict=True)
    ]


def f1_macro(has_RK: np.ndarray, given_RK: np.ndarray) -> float:
    """The mean F1 over the labels that some row has or was given."""
    f1s = [label["f1"] for label in by_label(has_RK, given_RK) if label["rows"] or label["predicted"]]
    return sum(f1s) / len(f1s) if f1s else 0.0


def micro(has_RK: np.ndarray, given_RK: np.ndarray) -> dict[str, float]:
    """precision, recall and f1 of all labels counted together."""
    right, has, given = (has_RK & given_RK).sum(), has_RK.sum(), given_RK.sum()
    return {"precision": _share(right, given), "recall": _share(right, has), "f1": _share(2 * right, has + given)}


def right_sets(has_RK: np.ndarray, given_RK: np.ndarray) -> np.ndarray:
    """`[R]`: whether a row was given its labels and no other; their mean is subset accuracy."""
    right_R: np.ndarray = (has_RK == given_RK).all(-1)
    return right_R


def set_probability(probability_K: np.ndarray, given_K: np.ndarray) -> float:
    """The probability that the row has exactly these labels, assuming independent labels."""
    return float(np.where(given_K, probability_K, 1 - probability_K).prod())


def _share(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else 0.0
