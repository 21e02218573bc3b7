"""TTFT against the rate at which requests come in, by policy, in an open loop."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import captions, online, style
from figures.catalogue import Entry
from figures.online import Panel
from harness.analysis.results import Results
from harness.analysis.stats import cluster_interval
from harness.cell import OpenLoop
from harness.errors import HarnessError

_STATISTICS = {"mean": None, "median": 50.0, "90th percentile": 90.0, "99th percentile": 99.0}
# Of the range of rates, so that whiskers do not hide each other.
_DODGE = 0.012
# Values further apart than this are drawn on a logarithmic scale.
_WIDE = 10


def draw(results: Results, entry: Entry) -> Figure:
    """Draw a panel for each statistic, a line a policy, with 95 % intervals.

    Raises:
        HarnessError: if cells ran, and none is valid.

    """
    selection = online.select(results, entry)
    if not selection.panels:
        return style.not_run(entry.title, selection.reason)
    rates = _rates(selection.panels)
    if not rates:
        raise HarnessError("no valid cell has a request rate; `request_rate` of a load sets it.")
    panels = list(rates.values())
    requests = {
        (policy, rate): panel.requests(results, policy)
        for rate, panel in rates.items()
        for policy in panel.policies
    }
    again = {
        (policy, rate): found
        for rate, panel in rates.items()
        for policy in panel.policies
        if (found := panel.repeated(results, policy)) is not None
    }
    turns = {
        rate: panel.load.turn_requests
        for rate, panel in rates.items()
        if isinstance(panel.load, OpenLoop)
    }
    saturated = {
        (policy, rate)
        for (policy, rate), found in requests.items()
        if any(online.is_saturated(own, turns[rate]) for _, own in found.groupby("seed"))
    }

    style.use()
    figure, grid = plt.subplots(
        2, 2, figsize=(8.4, 6.4), layout="constrained", squeeze=False, sharex=True
    )
    is_wide = False
    for axes, (name, percentile) in zip(grid.flat, _STATISTICS.items(), strict=True):
        is_wide |= _panel(axes, requests, saturated, percentile)
        _again(axes, again, percentile)
        axes.set_title(name.capitalize())
        axes.set_xticks(list(rates), [f"{rate:g}" for rate in rates])
        axes.set_xlim(*_limits(list(rates)))
    for axes in grid.flat:
        axes.margins(y=0.1)
        # One scale, to be compared by eye.
        if is_wide:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.get_yaxis().set_major_formatter(lambda y, _: f"{y:,g}")
    for axes in grid[:, 0]:
        axes.set_ylabel("TTFT, ms")
    for axes in grid[-1]:
        axes.set_xlabel("requests/s offered")
    more = [_repeated()] if again else []
    online.legend(figure, panels, more + ([_saturation()] if saturated else []))
    load = panels[0].load
    assert isinstance(load, OpenLoop)
    style.face(
        figure,
        *online.setting(results, entry, panels),
        f"Open loop, {captions.arrivals(load)}, the same for all policies. "
        f"{online.since(panels)} 95 % intervals by the bootstrap over blocks of consecutive "
        "requests, all seeds together.",
        "Saturated: the server finished less than 95 % of what was offered in the time; its TTFT "
        "then grows with the length of the run."
        if saturated
        else "The server kept up (95 % of what was offered or more) at all rates.",
        *selection.sentences,
    )
    return figure


def _rates(panels: list[Panel]) -> dict[float, Panel]:
    """Return panels that differ in rate only, by their rate: of Poisson arrivals if there are."""
    found: dict[str, dict[float, Panel]] = {}
    for panel in panels:
        if isinstance(panel.load, OpenLoop) and panel.load.request_rate is not None:
            alike = found.setdefault(captions.arrivals(panel.load), {})
            alike[panel.load.request_rate] = panel
    return next(iter(found.values()), {})


def _limits(rates: list[float]) -> tuple[float, float]:
    room = 0.08 * (rates[-1] - rates[0] or rates[0])
    return rates[0] - room, rates[-1] + room


def _panel(
    axes: Axes,
    requests: dict[tuple[str, float], pd.DataFrame],
    saturated: set[tuple[str, float]],
    percentile: float | None,
) -> bool:
    """Draw a panel; return whether its values are far apart."""
    rates = sorted({rate for _, rate in requests})
    policies = list(dict.fromkeys(policy for policy, _ in requests))
    width = (rates[-1] - rates[0] or rates[0]) * _DODGE
    drawn: list[float] = []
    for place, policy in enumerate(policies):
        own = [rate for rate in rates if (policy, rate) in requests]
        offset = width * (place - (len(policies) - 1) / 2)
        intervals = [
            cluster_interval(found["ttft_ms"], found["cluster"], percentile)
            for found in (requests[policy, rate] for rate in own)
        ]
        values = [interval.value for interval in intervals]
        at = [rate + offset for rate in own]
        axes.errorbar(
            at,
            values,
            yerr=style.whiskers(intervals),
            color=style.COLORS[policy],
            marker=style.MARKERS[policy],
            capsize=3,
            zorder=3,
        )
        for x, rate, value in zip(at, own, values, strict=True):
            if (policy, rate) in saturated:
                axes.plot(x, value, **_RING)
        drawn += values
    return max(drawn) > _WIDE * min(drawn)


def _again(
    axes: Axes, requests: dict[tuple[str, float], pd.DataFrame], percentile: float | None
) -> None:
    for (policy, rate), found in requests.items():
        interval = cluster_interval(found["ttft_ms"], found["cluster"], percentile)
        axes.plot(rate, interval.value, **_CROSS, color=style.COLORS[policy])


_CROSS: dict[str, Any] = {"marker": "x", "markersize": 8, "linestyle": "", "zorder": 5}


def _repeated() -> Line2D:
    return Line2D([], [], **_CROSS, color=style.COLORS["lru"], label="LRU again (noise)")


_RING: dict[str, Any] = {
    "marker": "o",
    "markersize": 11,
    "markerfacecolor": "none",
    "markeredgecolor": "black",
    "linestyle": "",
    "zorder": 4,
}


def _saturation() -> Line2D:
    return Line2D([], [], **_RING, label="saturated")
