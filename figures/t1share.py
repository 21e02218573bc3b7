"""Figure 7: ARC's split between recent and frequent blocks, over the requests, in tier replay."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures import captions, style
from figures.catalogue import Entry
from harness.analysis import paper
from harness.analysis.results import Results, not_run
from harness.errors import HarnessError
from workloads.docqa import DocQA

_COLUMNS = 5


def draw(results: Results, entry: Entry) -> Figure:
    """Draw T1's share of the cache after each request: a row a workload, a panel a cache size.

    Raises:
        HarnessError: if cells of ARC ran, and none is valid.

    """
    found = pd.concat([_arcs(results, name) for name in entry.workloads])
    of_each = {str(name): own for name, own in found.groupby("workload", sort=False)}
    reasons = {name: not_run(cells) for name, cells in of_each.items()}
    left_out = {name: reason for name, reason in reasons.items() if reason}
    drawn = {name: _chosen(cells) for name, cells in of_each.items() if cells["valid"].any()}
    if left_out and len(left_out) == len(of_each):
        return style.not_run(entry.title, "; ".join(left_out.values()))
    if not drawn:
        raise HarnessError(captions.none_valid(found))
    shuffled = any(isinstance(results.config.workloads[name], DocQA) for name in drawn)
    invalid = int((~found["valid"] & ~found["workload"].isin(left_out)).sum())

    style.use()
    columns = max(map(len, drawn.values()))
    figure, grid = plt.subplots(
        len(drawn),
        columns,
        figsize=(max(2.4 * columns, 7), 2.3 * len(drawn) + 0.6),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for row, (name, cells) in zip(grid, drawn.items(), strict=True):
        published = paper.points("fig7", name)
        for axes, (_, cell) in zip(row, cells.iterrows(), strict=False):
            _panel(axes, results, cell, published)
        for axes in row[len(cells) :]:
            axes.set_axis_off()
        row[0].set_ylabel(f"{name}\nT1 / cache")
        for axes in row:
            axes.set_xlabel("request")
    # Each once, whichever panel has it.
    entries = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower center",
        ncols=len(entries),
        frameon=False,
    )
    style.face(
        figure,
        f"{entry.title}. Tier replay, policy arc, batch size 1, one seed of each workload: blocks "
        "in T1 (used once of late) as a share of the cache, after each request, with its median"
        + ("; dotted lines where doc-QA's popularity is shuffled anew." if shuffled else "."),
        *(f"Not run: {name}; cells.csv says why, and what to do." for name in left_out),
        *(_left_out(of_each[name], cells) for name, cells in drawn.items()),
        captions.not_drawn(invalid),
    )
    return figure


def _left_out(found: pd.DataFrame, drawn: pd.DataFrame) -> str:
    said = captions.left_out(found, drawn)
    return f"{drawn['workload'].iloc[0]}: {said[0].lower()}{said[1:]}" if said else ""


def _arcs(results: Results, workload: str) -> pd.DataFrame:
    cells = results.of("replay", workload)
    return cells[(cells["policy"] == "arc") & (cells["batch_size"] == 1)]


def _chosen(cells: pd.DataFrame) -> pd.DataFrame:
    """Return cells of one seed: of the paper's cache sizes; where it is of none, of its own."""
    cells = cells[cells["valid"]]
    cells = cells[cells["seed"] == cells["seed"].min()]
    papers = paper.points("fig7", str(cells["workload"].iloc[0]))["x"] / 1000
    is_papers = cells["x"].round().isin(papers)
    chosen = cells[is_papers] if is_papers.any() else cells
    return chosen.sort_values("x").head(_COLUMNS)


def _panel(axes: Axes, results: Results, cell: "pd.Series[Any]", published: pd.DataFrame) -> None:
    state = results.telemetry(cell)
    blocks = float(cell["cache_tokens"]) / results.config.tiers["replay"].block_size
    workload = results.config.workloads[str(cell["workload"])]
    warm_up = getattr(workload, "warm_up", 0)
    counted = state[state["request"] >= warm_up]
    share = counted["t1"] / blocks
    median = float(np.median(share))
    axes.axhline(median, color="black", linewidth=2.5, alpha=0.6, label="its median")
    color = style.COLORS["arc"]
    axes.plot(counted["request"], share, color=color, linewidth=0.9, zorder=3, label="T1 / cache")
    title = f"{cell['x']:,.0f}k tokens\nmedian {median:.2f}"
    for value in published[published["x"] / 1000 == round(float(cell["x"]))]["value"]:
        axes.axhline(value, color="grey", linestyle="--", linewidth=1.2, label="the paper's median")
        title += f", paper {value:.2f}"
    if isinstance(workload, DocQA):
        for start in range(workload.window, int(state["request"].max()), workload.window):
            axes.axvline(start, color="grey", linestyle=":", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.set_ylim(0, 1)
    axes.set_title(title, fontsize="small")
