"""Hit rate of fleets of engines against the cache of all of them, by router and policy, in tier
replay: a row a workload, a panel a router.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import captions, style
from figures.catalogue import Entry
from harness.analysis.results import Results, not_run
from harness.cell import Fleet
from harness.engines.routers import ROUTERS
from harness.errors import HarnessError


def draw(results: Results, entry: Entry) -> Figure:
    """Draw each workload's fleets, or why they were not run.

    Raises:
        HarnessError: if cells ran, and none is valid.

    """
    found = results.cells_of(entry.tier, entry.workloads, entry.modes)
    if reason := not_run(found):
        return style.not_run(entry.title, reason)
    cells = _with_loads(results, found[found["valid"]])
    if cells.empty:
        raise HarnessError(captions.none_valid(found))
    workloads = list(dict.fromkeys(cells["workload"]))
    routers = [name for name in ROUTERS if name in set(cells["router"])]

    style.use()
    figure, grid = plt.subplots(
        len(workloads),
        len(routers),
        figsize=(max(2.6 * len(routers) + 0.6, 7.6), 2.6 * len(workloads) + 1.2),
        layout="constrained",
        sharex="row",
        sharey="row",
        squeeze=False,
    )
    for row, workload in zip(grid, workloads, strict=True):
        of_one = results.of(entry.tier, workload)
        of_one = of_one[of_one["valid"] & (of_one["batch_size"] == 1)]
        for axes, router in zip(row, routers, strict=True):
            own = cells[(cells["workload"] == workload) & (cells["router"] == router)]
            if own.empty:
                axes.set_axis_off()
            else:
                _panel(axes, results, own, of_one)
        row[0].set_ylabel(f"{workload}\nhit rate")
    for axes, router in zip(grid[0], routers, strict=True):
        axes.set_title(router, fontsize="small")
    for axes in figure.axes:
        axes.set_xlabel("cache of all, thousand tokens")
    handles = list(map(style.ours, style.looks(cells["policy"]).values()))
    one = Line2D([], [], color="black", linestyle=":", label="one engine with as much cache")
    figure.legend(
        handles=[*handles, one], loc="outside lower center", ncols=len(handles) + 1, frameon=False
    )
    style.face(figure, *_sentences(entry, results, cells, len(found) - len(cells)))
    return figure


def _with_loads(results: Results, cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with their ``router``, ``engines``, and ``total``, in thousand tokens."""
    loads = [results.load(str(name)) for name in cells["cell"]]
    fleets = [load for load in loads if isinstance(load, Fleet)]
    engines = [load.engines for load in fleets]
    return cells.assign(
        router=[load.router for load in fleets], engines=engines, total=cells["x"] * engines
    )


def _panel(axes: Axes, results: Results, cells: pd.DataFrame, of_one: pd.DataFrame) -> None:
    for policy, look in style.looks(cells["policy"]).items():
        own = cells[cells["policy"] == policy].groupby("total")["hit_rate"].mean()
        axes.plot(own.index, own, color=look.color, marker=look.marker)
        one = of_one[of_one["policy"] == policy].groupby("x")["hit_rate"].mean()
        axes.plot(one.index, one, color=look.color, linestyle=":")
    sizes = sorted(set(cells["total"]) | set(of_one["x"]))
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes], fontsize="x-small")
    axes.minorticks_off()
    largest = cells[cells["engines"] == cells["engines"].max()]
    shares = [results.telemetry(cell)["busiest"].iloc[-1] for _, cell in largest.iterrows()]
    axes.text(
        0.03,
        0.93,
        f"busiest of {cells['engines'].max()}: {100 * max(shares):.0f} % of requests",
        transform=axes.transAxes,
        fontsize="x-small",
        color="dimgray",
    )


def _sentences(entry: Entry, results: Results, cells: pd.DataFrame, invalid: int) -> Sequence[str]:
    each = ", ".join(
        f"{own['x'].iloc[0]:g}k tokens ({name})" for name, own in cells.groupby("workload")
    )
    return [
        f"{entry.title}. {captions.engine(results, entry)}; {captions.over_seeds(cells['seed'])}.",
        f"Each engine has a scheduler, a policy and a cache of its own: {each}. Routers' rules are "
        "those of vLLM's production stack (round-robin, session, prefix-aware), SGLang's Model "
        "Gateway (cache-aware) and llm-d (scored), for engines that are idle between batches.",
        captions.not_drawn(invalid),
    ]
