"""Figure 6: hit rate against batch size, in tier replay."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from figures import captions, style
from figures.catalogue import Entry
from harness.analysis import paper
from harness.analysis.results import Results
from harness.analysis.stats import Interval, mean_interval
from harness.errors import HarnessError

# The text of the paper says 20k; what it plots are the values of 200k (figure 3a).
CACHE_TOKENS = 200_000


def draw(results: Results, entry: Entry) -> Figure:
    """Draw a bar for each policy and batch size, with 95 % intervals, and the paper's points.

    Raises:
        HarnessError: if no valid cell is in the results.

    """
    (workload,), title = entry.workloads, entry.title
    cells = results.of(entry.tier, workload)
    cells = cells[
        (cells["x"].round() == CACHE_TOKENS // 1000) & cells["policy"].isin(style.PAPER_POLICIES)
    ]
    invalid = int((~cells["valid"]).sum())
    cells = cells[cells["valid"]]
    if cells.empty:
        raise HarnessError(f"{title}: no valid cell of {workload} to draw")
    # Only seeds that all batch sizes have, so that they can be compared.
    of_size = cells.groupby("batch_size")["seed"].agg(set)
    cells = cells[cells["seed"].isin(set.intersection(*of_size))]
    sizes = sorted(of_size.index)
    published = paper.points("fig6", workload)
    published = published[published["metric"] == "hit_rate"]

    style.use()
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    heights = {
        policy: [_interval(own[own["batch_size"] == size]["hit_rate"]) for size in sizes]
        for policy in style.PAPER_POLICIES
        for own in (cells[cells["policy"] == policy],)
    }
    style.bars(axes, sizes, heights, published)
    style.face(
        figure,
        f"{title}. Tier replay: vLLM's scheduler and block pool without a model, cache of "
        f"{CACHE_TOKENS:,} tokens, block size {results.config.tiers['replay'].block_size}, "
        f"{int(cells['requests'].iloc[0]):,} requests of {workload}; "
        f"{captions.over_seeds(cells['seed'])}.",
        captions.not_drawn(invalid),
    )
    return figure


def _interval(hit_rates: "pd.Series[float]") -> Interval:
    mean, half = mean_interval(list(hit_rates))
    return Interval(mean, mean - half, mean + half)
