"""Figures 3 and 5 on real engines: hit rate and TTFT against cache size, TTFT by request."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import captions, style
from figures.catalogue import Entry
from harness.analysis import noise, paper
from harness.analysis.comparisons import Comparison, Pair, compare
from harness.analysis.results import Results, not_run, of_patched
from harness.engines import registry
from harness.errors import HarnessError
from workloads.docqa import DocQA

# Share of the x axis by which policies are set apart, so that whiskers do not hide each other.
_DODGE = 0.007
# Held against LRU request by request.
_COMPARED = ("arc", "alrfu")


def draw(results: Results, entry: Entry) -> Figure:
    """Draw a figure of one workload, or why it was not run.

    Raises:
        HarnessError: if cells ran, and none on the patched engine is valid.

    """
    (workload,), title, tier = entry.workloads, entry.title, entry.tier
    (mode,) = entry.modes
    of_all = results.of(tier, workload, mode)
    found = of_all[of_all["batch_size"] == 1]
    if reason := not_run(found):
        return style.not_run(title, reason)
    cells = found[found["valid"]]
    invalid = len(found) - len(cells)
    patched = of_patched(cells)
    stock = cells.drop(patched.index)
    if patched.empty:
        raise HarnessError(captions.none_valid(of_patched(found)))
    published = paper.comparable(workload)
    project = registry.patched(entry.packages[0], tier).project

    style.use()
    figure = plt.figure(figsize=(14, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, 3)
    hit_rate = figure.add_subplot(grid[:, 0])
    ttft = figure.add_subplot(grid[0, 1])
    ttft_paper = figure.add_subplot(grid[1, 1], sharex=ttft)
    requests = figure.add_subplot(grid[:, 2])

    _ours(hit_rate, patched, "hit_rate")
    drawn = set(patched["policy"])
    style.paper_lines(hit_rate, published, "hit_rate", drawn)
    _stock(hit_rate, stock, "hit_rate")
    hit_rate.set(title="(a) Hit rate", ylabel=style.HIT_RATE)

    band = noise.band(results, tier, workload, mode)
    base = patched[patched["policy"] == "lru"].groupby("x")["ttft_mean_ms"].mean()
    if band is not None and not base.empty:
        style.noise(ttft, list(base.index), list(base), band)
        ttft.legend(handles=[style.noise_patch()], loc="lower right", fontsize="small")
    _ours(ttft, patched, "ttft_mean_ms")
    _stock(ttft, stock, "ttft_mean_ms")
    ttft.set(title="(b) Mean TTFT, measured here", ylabel="ms")
    ttft.tick_params(labelbottom=False)
    style.paper_lines(ttft_paper, published, "ttft_mean", drawn)
    ttft_paper.set(title=f"(b) Mean TTFT, paper ({paper.SETTING})", ylabel="ms")
    if not published["policy"].isin(drawn).any():
        style.nothing(ttft_paper, "the paper has none of these policies")
    for axes in (hit_rate, ttft, ttft_paper):
        style.from_zero(axes, 1.1)
    scaled = "" if results.config.scale(tier, workload) == 1 else " at the paper's scale"
    for axes in (hit_rate, ttft_paper):
        axes.set_xlabel(f"KV cache size, thousand tokens{scaled}")

    hit_rate.legend(handles=_legend(patched, stock, project), loc="lower right", frameon=True)
    compared = [
        [one for one in compare(results, tier, workload, mode, Pair("lru", policy)) if one.effect]
        for policy in _COMPARED
        if policy in drawn
    ]
    compared = [of_policy for of_policy in compared if of_policy]
    _differences(requests, results, compared)
    sentences = _sentences(entry, patched, results, workload, invalid)
    style.face(
        figure,
        *sentences,
        "(c) Each request's TTFT under a policy less that under LRU, in order. Most requests hit "
        "as much under both; the others make the mean."
        if compared
        else "",
        captions.noise(band),
        captions.left_out(of_all, patched),
    )
    return figure


def _ours(axes: Axes, cells: pd.DataFrame, column: str) -> None:
    """Draw a line through the means of the seeds, whiskers from the least to the largest."""
    dodge = _DODGE * cells["x"].max()
    for offset, policy in enumerate(style.LABELS, start=-1):
        by_size = cells[cells["policy"] == policy].groupby("x")[column]
        seeds = by_size.agg(["mean", "min", "max"])
        axes.errorbar(
            seeds.index + dodge * offset,
            seeds["mean"],
            yerr=[seeds["mean"] - seeds["min"], seeds["max"] - seeds["mean"]],
            color=style.COLORS[policy],
            marker=style.MARKERS[policy],
            capsize=3,
            zorder=3,
        )


def _differences(axes: Axes, results: Results, compared: Sequence[Sequence[Comparison]]) -> None:
    """Draw how requests' TTFT differs from that under LRU: what share differs by no more."""
    names = " and ".join(style.LABELS[own[0].pair.policy] for own in compared) or "ARC"
    axes.set(title=f"(c) {names} less LRU, by request", xlabel="difference in TTFT, ms")
    if not compared:
        style.nothing(axes, "ARC and LRU were not both measured")
        return
    # The smallest cache and the largest.
    ends = [
        one for own in compared for one in zip((*own[:1], *own[1:][-1:]), ("-", "--"), strict=False)
    ]
    for one, line in ends:
        base, policy = (
            results.requests(results.cell(names[0])) for names in (one.base, one.policy)
        )
        both = base.merge(policy, on="request", suffixes=("_base", "_policy"))
        difference = np.sort(both["ttft_ms_policy"] - both["ttft_ms_base"])
        equal = (both["cached_tokens_policy"] == both["cached_tokens_base"]).mean()
        name = f"{style.LABELS[one.pair.policy]}, " if len(compared) > 1 else ""
        axes.plot(
            difference,
            (np.arange(len(difference)) + 1) / len(difference),
            line,
            color=style.COLORS[one.pair.policy],
            label=f"{name}{one.x:.0f}k: {100 * equal:.0f} % equal hits",
        )
    axes.axvline(0, color="black", linewidth=1)
    axes.set(ylabel="share of requests that differ by no more", ylim=(0, 1))
    axes.legend(loc="lower right", fontsize="small")


def _stock(axes: Axes, cells: pd.DataFrame, column: str) -> None:
    mean = cells.groupby("x")[column].mean()
    axes.plot(mean.index, mean, "x", color="black", markersize=8, zorder=4)


def _legend(patched: pd.DataFrame, stock: pd.DataFrame, project: str) -> list[Line2D]:
    named = set(patched["policy"]) & style.LABELS.keys()
    handles = list(map(style.ours, style.looks(named).values()))
    if not stock.empty:
        handles.append(
            Line2D(
                [], [], color="black", marker="x", linestyle="", label=f"{project} unpatched (LRU)"
            )
        )
    handles.append(style.papers())
    if patched.groupby(["x", "policy"])["seed"].nunique().max() > 1:
        handles.append(
            Line2D(
                [],
                [],
                color="grey",
                marker="|",
                markersize=12,
                linestyle="",
                label="seeds, min to max",
            )
        )
    return handles


def _sentences(
    entry: Entry, cells: pd.DataFrame, results: Results, workload: str, invalid: int
) -> list[str]:
    params = results.config.workloads[workload]
    requests = f"{int(cells['requests'].iloc[0]):,}"
    if isinstance(params, DocQA):
        requests += f" of the paper's {paper.REQUESTS:,}"
    original = paper.stands_in_for(workload)
    return [
        f"{entry.title}. {captions.engine(results, entry)}, batch size 1"
        f"{' over HTTP' if 'batch-http' in entry.modes else ''}. "
        f"{captions.workload(results, entry.tier, workload)}, {requests} requests"
        f"{captions.warm_up(params)}, {captions.seeds(cells['seed'])}.",
        f"The paper's points are of {original}, whose prompts are longer: each is drawn at the "
        "cache that holds as many of ours."
        if original
        else "",
        captions.not_drawn(invalid),
    ]
