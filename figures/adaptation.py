"""What half-life ALRFU follows while the traffic changes, and what that does to the hit rate."""

import math
from collections.abc import Collection

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import captions, style
from figures.catalogue import Entry
from harness.analysis.results import Results, not_run
from harness.errors import HarnessError
from workloads.sequence import Sequence

_POLICY = "alrfu"
_WINDOW = 200
# Of a window that is filling since the traffic changed, as many requests as are drawn.
_LEAST = 50
_MARKERS = 12
# More columns cannot be read on one page.
_MOST = 3


def draw(results: Results, entry: Entry) -> Figure:
    """Draw a column a cache size: above the half-life after each request, below hit rates of late.

    Raises:
        HarnessError: if cells of ALRFU ran, and none is valid.

    """
    (workload,) = entry.workloads
    found = results.of(entry.tier, workload)
    found = found[found["batch_size"] == 1]
    if reason := not_run(found):
        return style.not_run(entry.title, reason)
    cells = found[found["valid"]]
    of_policy = cells[cells["policy"] == _POLICY]
    if of_policy.empty:
        raise HarnessError(captions.none_valid(found[found["policy"] == _POLICY]))
    first = of_policy["seed"].min()
    sizes = sorted(of_policy[of_policy["seed"] == first]["x"])[:_MOST]
    drawn = cells[(cells["seed"] == first) & cells["x"].isin(sizes)]
    params = results.config.workloads[workload]
    starts = params.starts if isinstance(params, Sequence) else [0]

    style.use()
    figure, grid = plt.subplots(
        2,
        len(sizes),
        figsize=(max(5.6 * len(sizes), 7.6), 5.6),
        layout="constrained",
        sharex=True,
        sharey="row",
        squeeze=False,
        height_ratios=(2, 3),
    )
    for (half_life, hit_rate), size in zip(grid.T, sizes, strict=True):
        own = drawn[drawn["x"] == size]
        _half_life(half_life, results, own[own["policy"] == _POLICY].iloc[0])
        _hit_rates(hit_rate, results, own, starts)
        half_life.set_title(f"{size:,.0f}k tokens", pad=18)
        hit_rate.set_xlabel("request")
        if isinstance(params, Sequence):
            _phases(half_life, hit_rate, params)
    style.from_zero(max(grid[1], key=lambda axes: float(axes.dataLim.y1)), 1.08)
    grid[0, 0].set_ylabel("half-life, turnovers")
    grid[1, 0].set_ylabel(f"hit rate,\nlast {_WINDOW} requests")
    looks = style.looks(drawn["policy"])
    figure.legend(
        handles=list(map(style.ours, looks.values())),
        loc="outside lower center",
        ncols=len(looks),
        frameon=False,
    )
    style.face(
        figure,
        f"{entry.title}. {captions.engine(results, entry)}, batch size 1. "
        f"{captions.workload(results, entry.tier, workload)}, {captions.seeds([first])}.",
        f"Above, the half-life that {style.LABELS[_POLICY]} follows after each request: after so "
        "many turnovers of the cache (one is as many blocks used as the cache has) a use counts "
        "half as much; with 0 only the last use counts, which is LRU.",
        f"Below, cached ÷ queried tokens of the last {_WINDOW} requests, of those since the "
        "traffic changed (grey lines).",
        captions.not_drawn(len(found) - len(cells)),
        captions.left_out(cells, drawn),
    )
    return figure


def _half_life(axes: Axes, results: Results, cell: "pd.Series[float]") -> None:
    state = results.telemetry(cell)
    color = style.COLORS[_POLICY]
    axes.step(
        state["request"], _level(state["half_life"]), where="post", color=color, linewidth=1.2
    )
    most = max(1.0, state["half_life"].max())
    ticks = [0.0, *(2.0**power for power in range(math.ceil(math.log2(most)) + 1))]
    axes.set_yticks(_level(pd.Series(ticks)), ["0 (LRU)", *(f"{tick:g}" for tick in ticks[1:])])


def _level(half_lives: "pd.Series[float]") -> "pd.Series[float]":
    """Return where half-lives are drawn: each as far from the next as from twice of it."""
    return half_lives.map(lambda one: 1 + math.log2(one) if one else 0.0)


def _hit_rates(axes: Axes, results: Results, cells: pd.DataFrame, starts: Collection[int]) -> None:
    looks = style.looks(cells["policy"])
    for place, (policy, look) in enumerate(looks.items(), start=1):
        requests = results.requests(cells[cells["policy"] == policy].iloc[0])
        phase = np.searchsorted(list(starts), requests["request"], side="right")
        of_late = (
            requests.groupby(phase)[["cached_tokens", "prompt_tokens"]]
            .rolling(_WINDOW, min_periods=_LEAST)
            .sum()
            .reset_index(drop=True)
        )
        apart = max(1, len(requests) // _MARKERS)
        axes.plot(
            requests["request"],
            of_late["cached_tokens"] / of_late["prompt_tokens"],
            color=look.color,
            marker=look.marker,
            markersize=5,
            # Side by side where lines lie on each other.
            markevery=(apart * place // (len(looks) + 1), apart),
            linewidth=1.2,
        )


def _phases(half_life: Axes, hit_rate: Axes, params: Sequence) -> None:
    for start, phase in zip(params.starts, params.phases, strict=True):
        if start:
            for axes in (half_life, hit_rate):
                axes.axvline(start, color="grey", linewidth=1.5)
        half_life.text(
            start + phase.requests / 2,
            1.03,
            phase.part,
            transform=half_life.get_xaxis_transform(),
            ha="center",
            fontsize="small",
            color="dimgray",
        )
