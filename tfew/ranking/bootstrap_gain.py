"""Intervals of micro-F1, and of its paired gain on the same rows.

95 % intervals by the bootstrap over rows (Efron 1979): labels of one row are not independent observations. The draws
are the same in every call. Intervals cover the sampling of rows, not of training runs.
"""

from collections.abc import Iterator

import numpy as np

from tfew.ranking.paired_gain import Gain

DRAWS = 2000
AT_A_TIME = 100  # draws, which bounds the memory
ENDS = (2.5, 97.5)  # percentiles


def f1_interval(has_RK: np.ndarray, given_RK: np.ndarray) -> tuple[float, float]:
    """The interval of micro-F1."""
    low, high = np.percentile(_f1(_counts(has_RK, given_RK)), ENDS)
    return float(low), float(high)


def bootstrap_gain(has_RK: np.ndarray, given_RK: np.ndarray, other_RK: np.ndarray) -> Gain:
    """micro-F1 of the labels given, minus that of the other predictor, with its paired interval."""
    ours_R3, theirs_R3 = _counts(has_RK, given_RK), _counts(has_RK, other_RK)
    low, high = np.percentile(_f1(ours_R3) - _f1(theirs_R3), ENDS)
    value = _share(ours_R3.sum(0)) - _share(theirs_R3.sum(0))
    return Gain(float(value), float(low), float(high))


def _counts(has_RK: np.ndarray, given_RK: np.ndarray) -> np.ndarray:
    """`[R, 3]`: per row, how many labels are right, how many it has, and how many it was given."""
    return np.stack([(has_RK & given_RK).sum(1), has_RK.sum(1), given_RK.sum(1)], axis=1)


def _f1(counts_R3: np.ndarray) -> np.ndarray:
    """`[DRAWS]`: micro-F1 of each bootstrap draw."""
    return np.concatenate([_share(times_DR @ counts_R3) for times_DR in _draws(len(counts_R3))])


def _draws(rows: int) -> Iterator[np.ndarray]:
    """`[D, R]`, how often each row is drawn; equal draws for equal numbers of rows, so that two F1 are paired."""
    random = np.random.default_rng(0)
    for _ in range(DRAWS // AT_A_TIME):
        yield random.multinomial(rows, np.full(rows, 1 / rows), size=AT_A_TIME)


def _share(counts: np.ndarray) -> np.ndarray:
    right, has, given = counts[..., 0], counts[..., 1], counts[..., 2]
    return np.asarray(2 * right / np.maximum(has + given, 1))
