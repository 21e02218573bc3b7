"""Mean TTFT predicted from the hit rate, for tiers that have no clock.

Prefill computes what the cache does not hold, so with requests that do not wait for each other
mean TTFT is close to linear in the hit rate. The line is fitted by least squares on the paper's
LRU points of a workload; its ARC and DBL points are not used, so that they can check it.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis import paper

FITTED_ON = "lru"


@dataclass(frozen=True)
class CostModel:
    """TTFT in ms = ``cold_ms`` - ``saved_ms`` x hit rate (contiguous prefix, fraction)."""

    cold_ms: float
    saved_ms: float

    def ttft_ms(self, hit_rate: float) -> float:
        """Return the predicted mean TTFT in ms."""
        return self.cold_ms - self.saved_ms * hit_rate


def fit(points: pd.DataFrame) -> CostModel:
    """Fit the line to points with ``hit_rate`` and ``ttft_mean`` (ms); at least two."""
    slope, intercept = np.polyfit(points["hit_rate"], points["ttft_mean"], deg=1)
    return CostModel(cold_ms=float(intercept), saved_ms=float(-slope))


def of_paper(workload: str) -> CostModel | None:
    """Return the model fitted on the paper's LRU points of a workload; None if it has none."""
    points = paper.joined(workload)
    points = points[points["policy"] == FITTED_ON]
    return None if points.empty else fit(points)


def check(workload: str) -> pd.DataFrame:
    """Compare the model with the paper's points that it was not fitted on.

    Returns:
        ``policy``, ``cache_tokens``, ``ttft_mean`` (ms, the paper's), ``predicted`` (ms), ``error``
        (fraction of the paper's).

    """
    model = of_paper(workload)
    points = paper.joined(workload)
    unseen = points[points["policy"] != FITTED_ON]
    if model is None:
        return unseen.assign(predicted=[], error=[])
    predicted = unseen["hit_rate"].map(model.ttft_ms)
    return unseen.assign(predicted=predicted, error=predicted / unseen["ttft_mean"] - 1).drop(
        columns="hit_rate"
    )
