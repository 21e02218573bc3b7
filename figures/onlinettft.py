"""TTFT of online traffic by policy: the share of requests that wait no longer than so long."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from figures import online, style
from figures.catalogue import Entry
from figures.online import Panel
from harness.analysis.results import Results

# Where markers are, so that lines can be told apart in grey and read off.
_MARKED = (10, 50, 90, 99)


def draw(results: Results, entry: Entry) -> Figure:
    """Draw a panel for each workload and load, a line a policy.

    Raises:
        HarnessError: if cells ran, and none is valid.

    """
    selection = online.select(results, entry)
    if not selection.panels:
        return style.not_run(entry.title, selection.reason)
    panels = selection.panels

    style.use()
    # Four are a square, others rows of three.
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(max(4.2 * columns, 7), 3 * rows + 1.4),
        layout="constrained",
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for axes, panel in zip(grid.flat, panels, strict=False):
        _panel(axes, results, panel)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    for axes in list(grid.flat)[: len(panels)][-columns:]:
        axes.set_xlabel("TTFT, ms")
        axes.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("share of requests")
    online.legend(figure, panels, online.again(panels))
    style.face(
        figure,
        *online.setting(results, entry, panels),
        f"{online.since(panels)} Same requests and, in an open loop, the same arrivals for all "
        f"policies; all seeds together; markers at the {_MARKED[0]}th, {_MARKED[1]}th, "
        f"{_MARKED[2]}th and {_MARKED[3]}th percentile.",
        *selection.sentences,
    )
    return figure


def _panel(axes: Axes, results: Results, panel: Panel) -> None:
    for policy in panel.policies:
        ttft = np.sort(panel.requests(results, policy)["ttft_ms"].to_numpy(float))
        share = np.arange(1, len(ttft) + 1) / len(ttft)
        axes.step(ttft, share, where="post", color=style.COLORS[policy], linewidth=1.5)
        axes.plot(
            np.percentile(ttft, _MARKED),
            np.array(_MARKED) / 100,
            color=style.COLORS[policy],
            marker=style.MARKERS[policy],
            linestyle="",
        )
        again = panel.repeated(results, policy)
        if again is not None:
            axes.step(
                np.sort(again["ttft_ms"].to_numpy(float)),
                np.arange(1, len(again) + 1) / len(again),
                where="post",
                color=style.COLORS[policy],
                linestyle=online.AGAIN,
            )
    axes.set_xscale("log")
    # In each decade few, so that they have room, and none in between.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(panel.title, fontsize="small")
    axes.set_ylim(0, 1.02)
