"""The paper's own points, read off its figures.

``paper.csv`` holds every plotted point of Shen, Madhyastha, Underwood, Nicolae, Burns,
"Recency/Frequency Adaptive KV Caching for Large Language Model Serving", arXiv 2606.21238, that
could be read, with the uncertainty of the reading. The paper ran Qwen3-14B on one H100 and reports
one run a point.
"""

from functools import cache
from pathlib import Path

import pandas as pd

_POINTS = Path(__file__).with_name("paper.csv")

SETTING = "Qwen3-14B, one H100"
REQUESTS = 3072
# Ours to be held against a workload of the paper that has another name there.
_COUNTERPARTS = {"docqa-quality-original": "docqa-quality", "docqa-qmsum": "docqa-quality"}
# Ours that stand in for one of the paper's, whose prompts are longer (on average 2,300 tokens for
# 550), and the share of its cache sizes that holds as many of ours.
_STAND_INS = {"conversation-short": ("conversation-bailian-a", 0.24)}


@cache
def _table() -> pd.DataFrame:
    table = pd.read_csv(_POINTS)
    return table.assign(policy=table["policy"].str.lower()).sort_values("x")


def points(figure: str, workload: str | None = None) -> pd.DataFrame:
    """Return one figure's points, ordered by x.

    Args:
        figure: As ``fig3a``.
        workload: One of the figure's workloads; None: all.

    Returns:
        ``policy`` (lower case), ``x`` (what ``x_name`` says, at the paper's scale), ``metric``,
        ``value``.

    """
    table = _table()
    chosen = table["figure"] == figure
    if workload is not None:
        chosen &= table["workload"] == workload
    return table.loc[chosen, ["policy", "x", "metric", "value"]]


def joined(workload: str) -> pd.DataFrame:
    """Return the points that have both hit rate and mean TTFT, of a workload or its counterpart.

    Returns:
        ``policy``, ``cache_tokens``, ``hit_rate`` (fraction), ``ttft_mean`` (ms); empty for a
        workload that the paper did not run.

    """
    table = _table()
    counterpart = _COUNTERPARTS.get(workload, workload)
    own = table[(table["workload"] == counterpart) & (table["x_name"] == "cache_tokens")]
    wide = own.pivot_table(index=["policy", "x"], columns="metric", values="value").reset_index()
    columns = {"x": "cache_tokens"}
    wanted = ["policy", "cache_tokens", "hit_rate", "ttft_mean"]
    return wide.rename(columns=columns).reindex(columns=wanted).dropna(ignore_index=True)


def comparable(workload: str) -> pd.DataFrame:
    """Return ``joined`` of a workload or, at cache sizes for its shorter prompts, of the one that
    it stands in for.
    """
    original, share = _STAND_INS.get(workload, (workload, 1.0))
    points = joined(original)
    return points.assign(cache_tokens=points["cache_tokens"] * share)


def stands_in_for(workload: str) -> str | None:
    """Return the workload of the paper that one of ours stands in for; None: it needs none."""
    original, _ = _STAND_INS.get(workload, (None, 1.0))
    return original
