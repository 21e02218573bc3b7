"""Figure 6 on a real server: hit rate, and mean TTFT relative to LRU, against batch size."""

import math
from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures import captions, online, style
from figures.batchsize import one_cache, where_papers_is
from figures.catalogue import Entry
from harness.analysis import noise, paper
from harness.analysis.comparisons import compare
from harness.analysis.results import Results, not_run, of_patched
from harness.analysis.stats import Estimate, Interval, blocks, mean_of, ratio_interval
from harness.errors import HarnessError

# Of our points to the left, and of the paper's to the right.
_DODGE = 0.05


def draw(results: Results, entry: Entry) -> Figure:
    """Draw hit rates as bars and ratios of mean TTFT as points, beside the paper's.

    Raises:
        HarnessError: if cells ran, and none on the patched engine is valid.

    """
    (workload,), title = entry.workloads, entry.title
    found = results.of(entry.tier, workload, "batch-http")
    if reason := not_run(found):
        return style.not_run(title, reason)
    cells = found[found["valid"]]
    invalid = len(found) - len(cells)
    patched = of_patched(cells)
    if patched.empty:
        raise HarnessError(captions.none_valid(of_patched(found)))
    patched = one_cache(patched)
    patched = online.same_seeds(patched, ("policy", "batch_size"))
    sizes = sorted(set(patched["batch_size"]))

    style.use()
    figure, (hit_rate, ratio) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    published = paper.points("fig6", workload)
    is_hit_rate = published["metric"] == "hit_rate"
    style.bars(hit_rate, sizes, _hit_rates(patched, sizes), published[is_hit_rate])
    hit_rate.set_title("(a) Hit rate")
    band = noise.band(results, entry.tier, workload, "batch-http")
    judged = _judged(results, entry, patched)
    _ratios(ratio, results, patched, sizes, published[~is_hit_rate], band, judged)
    ratio.set_title("(b) Mean TTFT relative to LRU")
    size = int(patched["cache_tokens"].iloc[0])
    style.face(
        figure,
        f"{title}. {captions.engine(results, entry)}, batches over HTTP. "
        f"{captions.workload(results, entry.tier, workload)}, "
        f"{captions.cache(results, entry.tier, workload, size)}{where_papers_is(patched)}; "
        f"{int(patched['requests'].iloc[0]):,} requests a cell, "
        f"{captions.seeds(patched['seed'])}.",
        "(a) Mean of the seeds, whiskers from the least to the largest."
        if patched["seed"].nunique() > 1
        else "",
        "(b) TTFT is from sending; 95 % intervals by the bootstrap over blocks of consecutive "
        "requests, whole batches, the same ones in both cells. Through hits: by a line through all "
        "requests, within what engines and runs differ by; that is judged, and moves less.",
        captions.noise(band),
        captions.left_out(of_patched(found), patched),
        captions.not_drawn(invalid),
    )
    return figure


def _hit_rates(cells: pd.DataFrame, sizes: list[float]) -> dict[str, list[Interval]]:
    """Return the mean of the seeds of each policy and batch size, from the least to the largest."""
    seeds = cells.groupby(["policy", "batch_size"])["hit_rate"].agg(["mean", "min", "max"])
    if cells["seed"].nunique() == 1:
        seeds[["min", "max"]] = math.nan
    return {
        policy: [Interval(*own) for own in seeds.loc[policy].reindex(sizes).to_numpy()]
        for policy in style.LABELS
        if policy in set(cells["policy"])
    }


def _ratios(
    axes: Axes,
    results: Results,
    patched: pd.DataFrame,
    sizes: list[float],
    published: pd.DataFrame,
    band: float | None,
    through_hits: Mapping[float, Interval],
) -> None:
    base = patched[patched["policy"] == "lru"]
    compared = {
        policy: patched[patched["policy"] == policy]
        for policy in style.LABELS
        if policy in set(patched["policy"]) and policy != "lru"
    }
    handles: list[ErrorbarContainer | Line2D | Patch] = []
    if band is not None:
        style.noise(axes, [-0.6, len(sizes) - 0.4], [1.0, 1.0], band)
        handles.append(style.noise_patch())
    all_places = style.places(len(sizes), len(compared))
    for at, (policy, cells) in zip(all_places, compared.items(), strict=True):
        intervals = [_ratio(results, cells, base, size) for size in sizes]
        drawn = axes.errorbar(
            [place - _DODGE for place in at],
            [interval.value for interval in intervals],
            yerr=style.whiskers(intervals),
            color=style.COLORS[policy],
            marker=style.MARKERS[policy],
            linestyle="",
            capsize=3,
            zorder=3,
            label=style.LABELS[policy],
        )
        beside = [place + _DODGE for place in at]
        handles += [drawn, *style.paper_points(axes, beside, sizes, published, policy)]
        if policy == "arc":
            handles += _through_hits(axes, dict(zip(sizes, at, strict=True)), through_hits)
    axes.axhline(1, color="black", linewidth=1)
    style.batch_sizes(axes, sizes)
    if base.empty or not compared:
        style.nothing(axes, "no cells of LRU and of another policy to compare")
        return
    low, high = axes.dataLim.y0, axes.dataLim.y1
    room = 0.1 * max(high - low, 0.05)
    axes.set(ylabel="ratio to LRU (less is faster)", ylim=(low - room, high + 4 * room))
    if handles:
        axes.legend(handles=handles, loc="upper center", ncols=len(compared), fontsize="small")


def _judged(results: Results, entry: Entry, patched: pd.DataFrame) -> dict[float, Interval]:
    """Return ARC's ratio through hits by batch size, as claims are judged by."""
    (workload,) = entry.workloads
    compared = compare(results, entry.tier, workload, "batch-http")
    known = noise.Noise(compared, noise.shipped())
    names = set(patched["cell"])
    found: dict[float, list[Estimate]] = {}
    for one in compared:
        if one.batch_size is not None and one.effect is not None and names & set(one.policy):
            found.setdefault(one.batch_size, []).append(known.of(one, "ttft"))
    percents = {size: mean_of(own, of_one_noise=True).interval() for size, own in found.items()}
    return {size: Interval(*(1 + end / 100 for end in own)) for size, own in percents.items()}


def _through_hits(
    axes: Axes, places: Mapping[float, float], intervals: Mapping[float, Interval]
) -> list[Line2D]:
    at = {size: place - 2 * _DODGE for size, place in places.items() if size in intervals}
    if not at:
        return []
    color = style.COLORS["arc"]
    known = {size: own for size, own in intervals.items() if size in at and own.low > -math.inf}
    axes.vlines(
        [at[size] for size in known],
        [own.low for own in known.values()],
        [own.high for own in known.values()],
        color=color,
    )
    values = [intervals[size].value for size in at]
    return axes.plot(list(at.values()), values, "D", color=color, label="ARC, through hits")


def _ratio(results: Results, cells: pd.DataFrame, base: pd.DataFrame, size: float) -> Interval:
    """Return the ratio of mean TTFT over the seeds that both have; not a number if none."""
    found = []
    for _, cell in cells[cells["batch_size"] == size].iterrows():
        same = base[(base["batch_size"] == size) & (base["seed"] == cell["seed"])]
        for _, other in same.iterrows():
            above, below = results.requests(cell), results.requests(other)
            above = above.assign(seed=cell["seed"], cluster=blocks(len(above), int(size)))
            both = above.merge(below, on="request")
            # Valid cells have no others, unless the limit on them is raised.
            found.append(both[(both["status_x"] == "ok") & (both["status_y"] == "ok")])
    if not found:
        return Interval(math.nan, math.nan, math.nan)
    pairs = pd.concat(found)
    return ratio_interval(
        pairs["ttft_ms_x"], pairs["ttft_ms_y"], pairs.groupby(["seed", "cluster"]).ngroup()
    )
