"""The statistics of a comparison: medians over seeds, gains over zero-shot, paired intervals. All are fractions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tfew.comparison.rows import DIGITS, Row
from tfew.errors import UserError
from tfew.ranking.metrics import median_and_iqr

Z_95 = 1.959964  # the 97.5 % point of the standard normal distribution


@dataclass(frozen=True)
class Interval:
    """An estimate and the standard error of its mean over rows."""

    mean: float
    standard_error: float

    @property
    def low(self) -> float:
        return self.mean - Z_95 * self.standard_error

    @property
    def high(self) -> float:
        return self.mean + Z_95 * self.standard_error


class Comparison:
    """Rows by variant and data set, each in order of first occurrence."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.variants = list(dict.fromkeys(row.variant for row in rows))
        self.datasets = list(dict.fromkeys(row.dataset for row in rows))
        self.seeds = sorted({row.seed for row in rows if not row.is_zero_shot})
        zero_shot = [row for row in rows if row.is_zero_shot]
        self._zero_shot = {row.dataset: row for row in zero_shot}
        if len(self._zero_shot) < len(zero_shot):
            raise UserError("There are two zero-shot rows for one data set: gains need exactly one as baseline.")

    def rows_of(self, variant: str, dataset: str) -> list[Row]:
        return [row for row in self.rows if (row.variant, row.dataset) == (variant, dataset)]

    def zero_shot(self, dataset: str) -> Row | None:
        return self._zero_shot.get(dataset)

    @property
    def tuned_variants(self) -> list[str]:
        """The variants that have a gain: all but zero-shot."""
        return [v for v in self.variants if not any(row.is_zero_shot for row in self.rows if row.variant == v)]

    def chance(self, dataset: str) -> float:
        return next(row.chance for row in self.rows if row.dataset == dataset)

    def accuracy(self, variant: str, dataset: str, norm: str | None = None) -> tuple[float, float] | None:
        """Median and interquartile range over seeds; `norm` None: each run's own score norm."""
        values = [
            row.accuracy if norm is None else row.accuracy_by_norm[norm] for row in self.rows_of(variant, dataset)
        ]
        return median_and_iqr(values) if values else None

    def mean_accuracy(self, variant: str, norm: str | None = None) -> float | None:
        """Mean over data sets of the medians over seeds; None if one is missing."""
        return _mean([pair and pair[0] for pair in (self.accuracy(variant, d, norm) for d in self.datasets)])

    def seed_gain(self, variant: str, seed: int) -> float | None:
        """Mean over data sets of a seed's accuracy minus the zero-shot accuracy; None if a run is missing."""
        gains = []
        for dataset in self.datasets:
            base, runs = self.zero_shot(dataset), [row for row in self.rows_of(variant, dataset) if row.seed == seed]
            gains.append(runs[0].accuracy - base.accuracy if base and runs else None)
        return _mean(gains)

    def paired_gain(self, variant: str, dataset: str) -> Interval | None:
        """Gain over zero-shot on the same rows, with a 95 % interval by normal approximation.

        For row i of n, d_i is the fraction of templates that answer it right, averaged over the variant's seeds, minus
        the same fraction of zero-shot. The interval is mean(d) -+ 1.96 * sd(d) / sqrt(n), sd with n - 1: the unit is
        the row, since templates and seeds of one row are not independent. It covers the sampling of test rows, not of
        seeds.
        """
        base, runs = self.zero_shot(dataset), self.rows_of(variant, dataset)
        if base is None or not runs:
            return None
        before, after = _fractions(base), [_fractions(row) for row in runs]
        if any(len(values) != len(before) for values in after):
            raise UserError(f"The runs on {dataset} were evaluated on unequal numbers of rows (eval_rows=).")
        gains = [sum(values) / len(values) - was for was, *values in zip(before, *after, strict=True)]
        mean, count = sum(gains) / len(gains), len(gains)
        variance = sum((gain - mean) ** 2 for gain in gains) / (count - 1) if count > 1 else math.nan
        return Interval(mean, math.sqrt(variance / count))

    def mean_paired_gain(self, variant: str) -> Interval | None:
        """Mean of the data sets' gains; their rows are independent, so their variances add up."""
        gains = [self.paired_gain(variant, dataset) for dataset in self.datasets]
        known = [gain for gain in gains if gain is not None]
        if not gains or len(known) < len(gains):
            return None
        error = math.sqrt(sum(gain.standard_error**2 for gain in known)) / len(known)
        return Interval(sum(gain.mean for gain in known) / len(known), error)


def _fractions(row: Row) -> list[float]:
    return [DIGITS.index(digit) / row.templates for digit in row.right]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
