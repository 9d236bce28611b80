"""How much better one predictor is than another on the same rows, with a paired 95 % interval."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt

from tfew.ranking.per_label_metrics import SURE


@dataclass(frozen=True)
class Gain:
    """A difference of two shares of right rows, in [-1, 1], and its 95 % interval."""

    value: float
    low: float
    high: float


def paired_gain(right: Sequence[bool], other_right: Sequence[bool], strata: Sequence[Hashable]) -> Gain:
    """The mean over strata of the share that is right, minus the other predictor's. Strata: all rows for accuracy, the
    rows of a label for balanced accuracy.

    The variance in a stratum of n rows is that of a paired difference of proportions, with one row added to those that
    only one predictor has right, and one to those that only the other has (Bonett and Price 2012, J. Educ. Behav.
    Stat. 37): so a few rows without any disagreement do not give an interval of zero width. The interval covers the
    sampling of rows, not of training runs.
    """
    rows = Counter(strata)
    only_one = Counter(stratum for mine, its, stratum in zip(right, other_right, strata, strict=True) if mine > its)
    only_other = Counter(stratum for mine, its, stratum in zip(right, other_right, strata, strict=True) if mine < its)
    value = sum((only_one[stratum] - only_other[stratum]) / rows[stratum] for stratum in rows) / len(rows)
    variance = sum(_variance(only_one[stratum], only_other[stratum], rows[stratum]) for stratum in rows)
    half = SURE * sqrt(variance) / len(rows)
    return Gain(value, max(-1.0, value - half), min(1.0, value + half))


def _variance(only_one: int, only_other: int, rows: int) -> float:
    better, worse = (only_one + 1) / (rows + 2), (only_other + 1) / (rows + 2)
    return (better + worse - (better - worse) ** 2) / (rows + 2)
