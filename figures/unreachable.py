"""What share of the cached blocks no request can use, by policy and cache size."""

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import captions, style
from figures.catalogue import Entry
from harness.analysis.results import Results, not_run
from harness.errors import HarnessError

_COLUMNS = 4
_LOGARITHMIC = 4.0


def draw(results: Results, entry: Entry) -> Figure:
    """Draw a panel a workload, a line a policy: means of the seeds.

    Raises:
        HarnessError: if cells ran, and of none it was counted.

    """
    found = results.cells_of(entry.tier, entry.workloads, entry.modes)
    found = found[found["batch_size"] == 1]
    if reason := not_run(found):
        return style.not_run(entry.title, reason)
    valid = found[found["valid"]]
    cells = valid[valid["unreachable"].notna()]
    if cells.empty:
        raise HarnessError(
            captions.none_valid(found) if valid.empty else "it was not counted in these cells."
        )
    workloads = list(dict.fromkeys(cells["workload"]))
    looks = style.looks(cells["policy"])

    style.use()
    columns = min(_COLUMNS, len(workloads))
    rows = math.ceil(len(workloads) / columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(max(3.3 * columns, 7), 2.7 * rows + 1.2),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for axes, workload in zip(grid.flat, workloads, strict=False):
        _panel(axes, cells[cells["workload"] == workload])
        axes.set_title(workload, fontsize="small")
    for axes in list(grid.flat)[len(workloads) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("% of cached blocks")
    top = 1.08 * max(axes.dataLim.y1 for axes in list(grid.flat)[: len(workloads)])
    grid[0, 0].set_ylim(0, top if top > 0 else 1)
    figure.legend(
        handles=list(map(style.ours, looks.values())),
        loc="outside lower center",
        ncols=len(looks),
        frameon=False,
    )
    style.face(
        figure,
        f"{entry.title}. {captions.engine(results, entry)}, batch size 1. Cached blocks of prompts "
        "of which not all blocks before them are cached, too, so that no request can use them: "
        "their share, counted up to 20 times a cell, means of these and of the seeds. Blocks that "
        "no request comes back for are not among them.",
        captions.not_drawn(len(found) - len(valid)),
    )
    return figure


def _panel(axes: Axes, cells: pd.DataFrame) -> None:
    for policy, look in style.looks(cells["policy"]).items():
        share = 100 * cells[cells["policy"] == policy].groupby("x")["unreachable"].mean()
        axes.plot(
            share.index, share, color=look.color, marker=look.marker, markersize=5, clip_on=False
        )
    sizes = sorted(set(cells["x"]))
    if sizes[-1] > _LOGARITHMIC * sizes[0]:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], fontsize="small")
    axes.set_xlabel("KV cache size, thousand tokens")
