"""Exact binomial bounds of an error rate (Clopper and Pearson 1934)."""

TINY = 1e-12  # tolerance for rounding, of a probability


def at_most(errors: int, rows: int, rate: float) -> float:
    """The probability of so many errors or fewer in `rows` rows, where each is an error with probability `rate`."""
    from scipy.special import bdtr  # not at start-up

    return float(bdtr(errors, rows, rate)) if rows else 1.0


def upper_bound(errors: int, rows: int, confidence: float) -> float:
    """The exact one-sided bound: with this confidence the error rate is no higher."""
    from scipy.special import betaincinv

    return 1.0 if errors >= rows else float(betaincinv(errors + 1, rows - errors, confidence))


def rows_to_show(errors: int, rate: float, confidence: float) -> int:
    """The fewest rows with this many errors that show, with this confidence, that the rate is no higher."""
    low, high = errors, errors + 1  # too few, and perhaps enough
    while at_most(errors, high, rate) > 1 - confidence + TINY:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if at_most(errors, middle, rate) <= 1 - confidence + TINY else (middle, high)
    return high
