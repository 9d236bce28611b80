"""Sets of labels with guaranteed coverage of the right one: split conformal prediction.

A label is in the set if its probability is at least the level L: the k-th highest among the probabilities of the
held-out rows' right labels, k = ceil((n + 1) * share). For rows from the same distribution as the held-out ones, scored
by the same model, the set holds the right label with probability `share` at least, over the draw of held-out and
new rows together (marginal: not for each label, nor for each kind of text; Vovk et al. 2005). The score is the
probability itself (LAC; Sadinle et al. 2019, arXiv 1609.00451), which makes the smallest sets on average where
probabilities are right. Adaptive sets (APS; Romano et al. 2020, arXiv 2006.02544) are exact only when randomised, and
larger otherwise; here the same file must always get the same labels. The drawback of LAC, that sets adapt less to hard
rows, is small for few labels. If no label reaches L, the set holds the likeliest, so none is empty; that can only
raise the share.
"""

import math
from collections.abc import Mapping

import numpy as np


def label_level(right_R: np.ndarray, share: float) -> float | None:
    """`right_R`: the probability of each held-out row's right label. None: too few rows, so sets have all labels."""
    place = math.ceil(round((len(right_R) + 1) * share, 9))
    return float(np.sort(right_R)[::-1][place - 1]) if place <= len(right_R) else None


def rows_needed(share: float) -> int:
    """The fewest held-out rows for which a set can leave a label out."""
    return math.ceil(round(share / (1 - share), 9))


def label_set(probabilities: Mapping[str, float], level: float | None) -> tuple[str, ...]:
    """The labels of the set, the likeliest first; at least one."""
    names = sorted(probabilities, key=lambda name: -probabilities[name])  # stable: ties keep their order
    if level is None:
        return tuple(names)
    return tuple(names[:1]) + tuple(name for name in names[1:] if probabilities[name] >= level)
