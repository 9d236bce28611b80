"""What a number of errors says of an error rate (Clopper and Pearson 1934)."""

import math


def at_most(errors: int, rows: int, rate: float) -> float:
    """The probability of so many errors or fewer in `rows` rows, where each is an error with probability `rate`."""
    from scipy.special import bdtr  # not at start-up

    return float(bdtr(errors, rows, rate)) if rows else 1.0


def upper_bound(errors: int, rows: int, confidence: float) -> float:
    """The exact one-sided bound: with this confidence the error rate is no higher."""
    from scipy.special import betaincinv

    return 1.0 if errors >= rows else float(betaincinv(errors + 1, rows - errors, confidence))


def rows_without_error(rate: float, confidence: float) -> int:
    """How many rows without an error it takes, at least, to show with this confidence that the rate is no higher."""
    return math.ceil(round(math.log(1 - confidence) / math.log(1 - rate), 9))
