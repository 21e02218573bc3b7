"""Figure 6: hit rate against batch size, in tier replay."""

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from figures import captions, online, style
from figures.catalogue import Entry
from harness.analysis import paper
from harness.analysis.results import Results, not_run
from harness.analysis.stats import Interval, mean_interval
from harness.errors import HarnessError

# What the paper plots, in thousand tokens (the values of figure 3a); its text says 20.
PAPERS_CACHE = 200


def draw(results: Results, entry: Entry) -> Figure:
    """Draw a bar for each policy and batch size, with 95 % intervals, and the paper's points.

    Raises:
        HarnessError: if cells ran, and none is valid.

    """
    (workload,), title = entry.workloads, entry.title
    of_all = results.of(entry.tier, workload)
    found = style.papers_policies(of_all)
    if reason := not_run(found):
        return style.not_run(title, reason)
    if not found["valid"].any():
        raise HarnessError(captions.none_valid(found))
    cells = one_cache(found[found["valid"]])
    cache_tokens = int(cells["cache_tokens"].iloc[0])
    invalid = int((~found[found["cache_tokens"] == cache_tokens]["valid"]).sum())
    # So that the batch sizes can be compared.
    cells = online.same_seeds(cells, ("batch_size",))
    sizes = sorted(set(cells["batch_size"]))
    published = paper.points("fig6", workload)
    published = published[published["metric"] == "hit_rate"]

    style.use()
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    heights = {
        policy: [_interval(own[own["batch_size"] == size]["hit_rate"]) for size in sizes]
        for policy in style.LABELS
        if not (own := cells[cells["policy"] == policy]).empty
    }
    style.bars(axes, sizes, heights, published)
    style.face(
        figure,
        f"{title}. {captions.engine(results, entry)}, cache of {cache_tokens:,} tokens"
        f"{where_papers_is(cells)}, {int(cells['requests'].iloc[0]):,} requests "
        f"of {workload}; {captions.over_seeds(cells['seed'])}.",
        captions.left_out(of_all, cells),
        captions.not_drawn(invalid),
    )
    return figure


def one_cache(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of one cache size: the one with the most batch sizes.

    Of several it is the paper's, if that is one of them, else the smallest.
    """
    batch_sizes = cells.groupby("cache_tokens")["batch_size"].nunique()
    most = cells[cells["cache_tokens"].isin(batch_sizes[batch_sizes == batch_sizes.max()].index)]
    papers = most[most["x"].round() == PAPERS_CACHE]
    chosen = (most if papers.empty else papers)["cache_tokens"].min()
    found: pd.DataFrame = cells[cells["cache_tokens"] == chosen]
    return found


def where_papers_is(cells: pd.DataFrame) -> str:
    """Say how large the paper's cache is, where that of the cells is another."""
    is_papers = round(float(cells["x"].iloc[0])) == PAPERS_CACHE
    return "" if is_papers else f", where the paper has {PAPERS_CACHE}k"


def _interval(hit_rates: "pd.Series[float]") -> Interval:
    if hit_rates.empty:
        return Interval(math.nan, math.nan, math.nan)
    mean, half = mean_interval(list(hit_rates))
    return Interval(mean, mean - half, mean + half)
