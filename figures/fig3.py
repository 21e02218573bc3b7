"""Figure 3: hit rate and mean TTFT against cache size on doc-QA, ours beside the paper's points.

``python -m figures.fig3 CONFIG CELLS.csv OUT.png OUT.pdf``
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import paper, style
from harness import config as configs
from harness.analysis import tables
from harness.config import Config
from harness.errors import HarnessError

WORKLOAD = "docqa-quality"
# In thousand tokens, so that whiskers do not hide each other.
_DODGE = 2.0


def draw(cells: pd.DataFrame, config: Config) -> Figure:
    """Draw the figure from a table of cells and the config they were measured under.

    Raises:
        HarnessError: if no valid cell of the workload is in the table.

    """
    cells = cells[(cells["workload"] == WORKLOAD) & (cells["batch_size"] == 1)]
    invalid = int((~cells["valid"]).sum())
    cells = cells[cells["valid"]]
    patched = cells[cells["engine"] == "vllm"]
    if patched.empty:
        raise HarnessError(f"figure 3: no valid cell of {WORKLOAD} to draw")
    workload = config.workloads[WORKLOAD]
    patched = patched.assign(x=patched["cache_tokens"] / workload.scale / 1000)
    stock = cells[cells["engine"] == "vllm-stock"]
    stock = stock.assign(x=stock["cache_tokens"] / workload.scale / 1000)

    style.use()
    figure = plt.figure(figsize=(10, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    hit_rate = figure.add_subplot(grid[:, 0])
    ttft = figure.add_subplot(grid[0, 1])
    ttft_paper = figure.add_subplot(grid[1, 1], sharex=ttft)

    _ours(hit_rate, patched, "hit_rate")
    _papers(hit_rate, "fig3a")
    _stock(hit_rate, stock, "hit_rate")
    hit_rate.set(title="(a) Hit rate", ylabel="hit rate (cached / queried prompt tokens)")

    _ours(ttft, patched, "ttft_mean_ms")
    _stock(ttft, stock, "ttft_mean_ms")
    ttft.set(title="(b) Mean TTFT, measured here", ylabel="ms")
    ttft.tick_params(labelbottom=False)
    _papers(ttft_paper, "fig3b")
    ttft_paper.set(title=f"(b) Mean TTFT, paper ({paper.SETTING})", ylabel="ms")
    for axes in (hit_rate, ttft, ttft_paper):
        axes.set_ylim(0, axes.dataLim.y1 * 1.1)
    for axes in (hit_rate, ttft_paper):
        axes.set_xlabel("KV cache size, thousand tokens at the paper's scale")

    hit_rate.legend(handles=_legend(patched, stock), loc="lower right", frameon=True)
    figure.suptitle(_face(patched, config, invalid), fontsize="small", x=0.01, ha="left")
    return figure


def _ours(axes: Axes, cells: pd.DataFrame, column: str) -> None:
    """Draw a line through the means of the seeds, whiskers from the least to the largest."""
    for offset, policy in enumerate(style.LABELS, start=-1):
        by_size = cells[cells["policy"] == policy].groupby("x")[column]
        seeds = by_size.agg(["mean", "min", "max"])
        x = seeds.index + _DODGE * offset
        axes.errorbar(
            x,
            seeds["mean"],
            yerr=[seeds["mean"] - seeds["min"], seeds["max"] - seeds["mean"]],
            color=style.COLORS[policy],
            marker=style.MARKERS[policy],
            capsize=3,
            zorder=3,
        )


def _papers(axes: Axes, figure: str) -> None:
    table = paper.points(figure)
    for policy in style.LABELS:
        points = table[table["policy"] == policy]
        axes.plot(
            points["x"] / 1000,
            points["value"],
            color=style.COLORS[policy],
            marker=style.MARKERS[policy],
            markerfacecolor="white",
            linestyle=":",
            zorder=2,
        )


def _stock(axes: Axes, cells: pd.DataFrame, column: str) -> None:
    mean = cells.groupby("x")[column].mean()
    axes.plot(mean.index, mean, "x", color="black", markersize=8, zorder=4)


def _legend(patched: pd.DataFrame, stock: pd.DataFrame) -> list[Line2D]:
    handles = [
        Line2D([], [], color=style.COLORS[p], marker=style.MARKERS[p], label=style.LABELS[p])
        for p in style.LABELS
        if p in set(patched["policy"])
    ]
    if not stock.empty:
        handles.append(
            Line2D([], [], color="black", marker="x", linestyle="", label="vLLM unpatched (LRU)")
        )
    handles.append(
        Line2D([], [], color="grey", marker="o", mfc="white", linestyle=":", label="paper")
    )
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


def _face(cells: pd.DataFrame, config: Config, invalid: int) -> str:
    """Say on the figure what was measured."""
    workload = config.workloads[WORKLOAD]
    requests = int(cells["requests"].iloc[0])
    corpus = "synthetic text" if workload.corpus == "synthetic" else Path(workload.corpus).name
    face = (
        f"{config.name}: tier {config.tier}, real vLLM engine, model {config.model.source} "
        f"({config.model.dtype}), block size {config.engine.block_size}\n"
        f"doc-QA on {workload.documents} documents of {corpus}, documents and cache at "
        f"1/{1 / workload.scale:g} of the paper's size, {requests} of the paper's 3,072 requests, "
        "batch size 1, seeds "
        f"{', '.join(map(str, sorted(cells['seed'].unique())))}"
    )
    return face + (f"; {invalid} invalid cells not drawn" if invalid else "")


def main() -> int:
    """Draw the figure named on the command line."""
    config_path, cells_path, png, pdf = map(Path, sys.argv[1:])
    try:
        figure = draw(tables.read_cells(cells_path), configs.load(config_path))
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    style.save(figure, png, pdf)
    return 0


if __name__ == "__main__":
    sys.exit(main())
