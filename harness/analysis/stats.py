"""Means and how sure they are."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half width of its 95 % interval, by Student's t.

    Args:
        values: One of each seed; the half width of a single one is not a number.

    """
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    factor = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    return float(np.mean(values)), float(factor * stats.sem(values))
