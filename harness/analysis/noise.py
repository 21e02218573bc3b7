"""Noise: within what equal cells of one run differ (A/A), for whatever differs by no more.

A difference between policies counts where it is larger than that between cells that do not differ.
"""

from typing import Literal

import pandas as pd

from harness.analysis.results import Results
from harness.analysis.stats import noise_band
from harness.cell import Tier
from harness.load.spec import Mode

Kind = Literal["hit_rate", "ttft"]
# Cells are equal that differ in none of these, nor in their load: repeats, and patched and
# unpatched vLLM under LRU.
_KEYS = ["mode", "batch_size", "request_rate", "cache_tokens", "seed", "policy"]


def band(results: Results, tier: Tier, workload: str, mode: Mode, kind: Kind) -> float | None:
    """Return how far from each other two equal cells are in 95 % of cases, at most.

    All pairs of a workload and mode are taken together, of whatever size: there are few. Of other
    workloads none are: a mean over fewer requests has more noise. Nor of other modes: a server and
    its client have more than an engine in process, and in traffic it adds up in queues.

    Args:
        results: The results.
        tier: A tier with a clock.
        workload: A workload.
        mode: A mode.
        kind: ``ttft``: of mean TTFT; ``hit_rate``.

    Returns:
        In percent of TTFT, in points of hit rate; None if there is no pair.

    """
    differences: list[float] = []
    cells = pd.concat([results.of(tier, workload, mode), results.again(tier, workload, mode)])
    cells = cells[cells["valid"]]
    loads = cells["cell"].map(lambda name: results.load(name).model_dump_json())
    for _, equal in cells.groupby([*_KEYS, loads.rename("load")], dropna=False):
        differences += _differences(equal, kind)
    return noise_band(differences)


def _differences(equal: pd.DataFrame, kind: Kind) -> list[float]:
    """Return how far others are from the first of equal cells."""
    column = "ttft_mean_ms" if kind == "ttft" else "hit_rate"
    first, *others = equal.sort_values(["repeat", "engine"])[column]
    return [100 * (other / first - 1 if kind == "ttft" else other - first) for other in others]
