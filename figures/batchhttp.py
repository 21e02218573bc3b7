"""Figure 6 on a real server: hit rate, and mean TTFT relative to LRU, against batch size."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures import captions, online, style
from figures.catalogue import Entry
from figures.results import Results, not_run
from harness.analysis import paper
from harness.analysis.stats import Interval, blocks, ratio_interval
from harness.errors import HarnessError

# What the paper plots, in thousand tokens; its text says 20.
PAPERS_CACHE = 200
_STOCK = "vllm-stock"
_STOCK_LABEL = "unpatched ÷ patched LRU (noise)"
_WIDTH = 0.8


def draw(results: Results, entry: Entry) -> Figure:
    """Draw hit rates as bars and ratios of mean TTFT as points, beside the paper's.

    Raises:
        HarnessError: if no cell is valid for another reason than that it could not be run.

    """
    (workload,), title = entry.workloads, entry.title
    cells = results.of(entry.tier, workload, "batch-http")
    if reason := not_run(cells):
        return style.not_run(title, reason)
    invalid = int((~cells["valid"]).sum())
    cells = cells[cells["valid"]]
    patched = cells[cells["engine"] == "vllm"]
    if patched.empty:
        raise HarnessError(f"{title}: no valid cell of {workload} to draw")
    patched = _one_cache(patched)
    patched = online.same_seeds(patched, ("policy", "batch_size"))
    stock = cells[
        (cells["engine"] == _STOCK)
        & (cells["cache_tokens"] == patched["cache_tokens"].iloc[0])
        & cells["seed"].isin(patched["seed"])
    ]
    sizes = sorted(set(patched["batch_size"]))

    style.use()
    figure, (hit_rate, ratio) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    published = paper.points("fig6", workload)
    _hit_rates(hit_rate, patched, sizes, published[published["metric"] == "hit_rate"])
    has_stock = _ratios(
        ratio, results, patched, stock, sizes, published[published["metric"] != "hit_rate"]
    )
    for axes in (hit_rate, ratio):
        axes.set_xticks(range(len(sizes)), [f"{size:.0f}" for size in sizes])
        axes.set_xlim(-0.6, len(sizes) - 0.4)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("batch size")
    policies = [policy for policy in style.LABELS if policy in set(patched["policy"])]
    hit_rate.legend(
        handles=[
            *(Patch(color=style.COLORS[policy], label=style.LABELS[policy]) for policy in policies),
            Line2D(
                [], [], color="black", mfc="white", marker="o", linestyle="", label="paper, LRU"
            ),
            *(
                _hollow(policy, f"paper, {style.LABELS[policy]}")
                for policy in policies
                if policy != "lru" and policy in style.PAPER_POLICIES
            ),
        ],
        loc="upper center",
        ncols=len(policies),
        fontsize="small",
    )
    compared = [policy for policy in policies if policy != "lru"]
    ratio.legend(
        handles=[
            *(_filled(policy, f"{style.LABELS[policy]} ÷ LRU") for policy in compared),
            *(
                _hollow(policy, f"paper, {style.LABELS[policy]} ÷ LRU")
                for policy in compared
                if policy in style.PAPER_POLICIES
            ),
            *([_cross()] if has_stock else []),
        ],
        loc="upper center",
        ncols=2,
        fontsize="small",
    )
    size = int(patched["cache_tokens"].iloc[0])
    at_papers = round(float(patched["x"].iloc[0])) == PAPERS_CACHE
    style.face(
        figure,
        f"{title}. {captions.engine(results, entry.tier)}, batches over HTTP. "
        f"{captions.workload(results, entry.tier, workload)}, "
        f"{captions.cache(results, entry.tier, workload, size)}"
        f"{'' if at_papers else f', where the paper has {PAPERS_CACHE}k'}; "
        f"{int(patched['requests'].iloc[0]):,} requests a cell, "
        f"{captions.seeds(patched['seed'])}.",
        "(a) mean of the seeds, whiskers from the least to the largest. (b) TTFT is from sending; "
        "95 % intervals by the bootstrap over blocks of consecutive requests, whole batches, the "
        "same ones in both cells.",
        captions.not_drawn(invalid),
    )
    return figure


def _one_cache(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of one cache size: the paper's if it is there, else the smallest."""
    is_papers = cells["x"].round() == PAPERS_CACHE
    is_smallest = cells["cache_tokens"] == cells["cache_tokens"].min()
    chosen: pd.DataFrame = cells[is_papers if is_papers.any() else is_smallest]
    return chosen


def _places(count: int, width: float) -> list[float]:
    """Return where to put so many things side by side, around 0."""
    return [width * (place - (count - 1) / 2) for place in range(count)]


def _hit_rates(
    axes: Axes, cells: pd.DataFrame, sizes: list[float], published: pd.DataFrame
) -> None:
    policies = [policy for policy in style.LABELS if policy in set(cells["policy"])]
    width = _WIDTH / len(policies)
    for offset, policy in zip(_places(len(policies), width), policies, strict=True):
        own = cells[cells["policy"] == policy].groupby("batch_size")["hit_rate"]
        seeds = own.agg(["mean", "min", "max"]).reindex(sizes)
        at = [place + offset for place in range(len(sizes))]
        bars: BarContainer = axes.bar(at, seeds["mean"], width, color=style.COLORS[policy])
        if cells["seed"].nunique() > 1:
            axes.errorbar(
                at,
                seeds["mean"],
                yerr=[seeds["mean"] - seeds["min"], seeds["max"] - seeds["mean"]],
                color="black",
                linestyle="",
                capsize=3,
            )
        axes.bar_label(
            bars, fmt="%.3f", label_type="center", fontsize="x-small", color="white", rotation=90
        )
        points = published[published["policy"] == policy].set_index("x")["value"]
        axes.plot(at, points.reindex(sizes), **_HOLLOW, marker=style.MARKERS[policy])
    axes.set(title="(a) Hit rate", ylabel="hit rate (cached / queried prompt tokens)")
    # Room for the legend.
    axes.set_ylim(0, axes.dataLim.y1 * 1.3)


def _ratios(
    axes: Axes,
    results: Results,
    patched: pd.DataFrame,
    stock: pd.DataFrame,
    sizes: list[float],
    published: pd.DataFrame,
) -> bool:
    """Draw the ratios; return whether any of unpatched vLLM is among them."""
    base = patched[patched["policy"] == "lru"]
    compared = [
        (policy, patched[patched["policy"] == policy])
        for policy in style.LABELS
        if policy in set(patched["policy"]) and policy != "lru"
    ]
    drawn_stock = False
    offsets = _places(len(compared) + 1, _WIDTH / (len(compared) + 1))
    for offset, (policy, cells) in zip(offsets[:-1], compared, strict=True):
        points = published[published["policy"] == policy].set_index("x")["value"]
        for place, size in enumerate(sizes):
            interval = _ratio(results, cells, base, size)
            if interval is not None:
                _point(axes, place + offset - 0.05, interval, policy)
            axes.plot(
                place + offset + 0.05,
                points.get(size, float("nan")),
                **_HOLLOW,
                marker=style.MARKERS[policy],
            )
    for place, size in enumerate(sizes):
        interval = _ratio(results, stock, base, size)
        if interval is not None:
            _point(axes, place + offsets[-1], interval, None)
            drawn_stock = True
    axes.axhline(1, color="black", linewidth=1)
    axes.set(title="(b) Mean TTFT relative to LRU", ylabel="ratio (less is faster)")
    low, high = axes.dataLim.y0, axes.dataLim.y1
    room = 0.1 * max(high - low, 0.05)
    axes.set_ylim(low - room, high + 4 * room)
    return drawn_stock


def _ratio(
    results: Results, cells: pd.DataFrame, base: pd.DataFrame, size: float
) -> Interval | None:
    """Return the ratio of mean TTFT over the seeds that both have; None if there is none."""
    found = []
    for _, cell in cells[cells["batch_size"] == size].iterrows():
        same = base[(base["batch_size"] == size) & (base["seed"] == cell["seed"])]
        for _, other in same.iterrows():
            above, below = results.requests(cell), results.requests(other)
            above = above.assign(seed=cell["seed"], cluster=blocks(len(above), int(size)))
            found.append(above.merge(below[["request", "ttft_ms"]], on="request"))
    if not found:
        return None
    both = pd.concat(found).dropna(subset=["ttft_ms_x", "ttft_ms_y"])
    return ratio_interval(
        both["ttft_ms_x"], both["ttft_ms_y"], both.groupby(["seed", "cluster"]).ngroup()
    )


# How points of the paper look: between them and the bars, black tells them apart.
_HOLLOW: dict[str, Any] = {
    "linestyle": "",
    "markerfacecolor": "white",
    "markeredgecolor": "black",
    "zorder": 4,
}


def _point(axes: Axes, at: float, interval: Interval, policy: str | None) -> None:
    axes.errorbar(
        at,
        interval.value,
        yerr=[[interval.value - interval.low], [interval.high - interval.value]],
        color=style.COLORS[policy] if policy else "black",
        marker=style.MARKERS[policy] if policy else "x",
        linestyle="",
        capsize=3,
        zorder=3,
    )


def _filled(policy: str, label: str) -> Line2D:
    return Line2D(
        [], [], color=style.COLORS[policy], marker=style.MARKERS[policy], linestyle="", label=label
    )


def _hollow(policy: str, label: str) -> Line2D:
    return Line2D(
        [], [], color="black", mfc="white", marker=style.MARKERS[policy], linestyle="", label=label
    )


def _cross() -> Line2D:
    return Line2D([], [], color="black", marker="x", linestyle="", label=_STOCK_LABEL)
