"""What another value of a policy's constant does: points over LRU, beside the policy as it is."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import captions, style
from figures.catalogue import Entry
from harness.analysis.results import Results, not_run
from harness.errors import HarnessError
from harness.policies import split

_BASE = "lru"
_TICK_WIDTH = 9
_MARKERS = ("o", "^", "s", "D", "v", "P")


def draw(results: Results, entry: Entry) -> Figure:
    """Draw a row a workload, a column a constant, a line a cache size: means of the seeds.

    Raises:
        HarnessError: if cells ran, and no variant can be compared with LRU.

    """
    found = results.cells_of(entry.tier, entry.workloads, entry.modes)
    found = found[found["batch_size"] == 1]
    if reason := not_run(found):
        return style.not_run(entry.title, reason)
    points = _points(found[found["valid"]])
    swept = points[points["constant"].notna()]
    if swept.empty:
        raise HarnessError(
            captions.none_valid(found)
            if not found["valid"].any()
            else "no variant of a policy has a cell of LRU beside it."
        )
    workloads = list(dict.fromkeys(swept["workload"]))
    columns = list(dict.fromkeys(zip(swept["of"], swept["constant"], strict=True)))

    style.use()
    figure, grid = plt.subplots(
        len(workloads),
        len(columns),
        figsize=(max(2.9 * len(columns), 7), 2.5 * len(workloads) + 1.2),
        layout="constrained",
        sharey="row",
        squeeze=False,
    )
    for row, workload in zip(grid, workloads, strict=True):
        own = points[points["workload"] == workload]
        row[0].set_ylabel("points over LRU")
        for axes, (policy, constant) in zip(row, columns, strict=True):
            _panel(axes, own[own["of"] == policy], constant, f"{workload}\n{policy}: {constant}")
    style.face(
        figure,
        f"{entry.title}. {captions.engine(results, entry)}, batch size 1.",
        "Points of hit rate over LRU, with other values of one constant at a time; dashed, the "
        "policy as it is. A line a cache size; means of as many seeds as there are, of which each "
        "is a fainter point.",
        captions.not_drawn(int((~found["valid"]).sum())),
    )
    return figure


def _points(cells: pd.DataFrame) -> pd.DataFrame:
    """Return cells with their ``points`` over LRU's, those that have one beside them, and of which
    policy (``of``), ``constant`` and ``value`` they are.
    """
    beside = ["workload", "x", "seed"]
    base = cells[cells["policy"] == _BASE].set_index(beside)["hit_rate"].rename("base")
    others = cells[cells["policy"] != _BASE].join(base, on=beside, how="inner")
    names = pd.DataFrame(
        [(policy, constant, values) for policy, constant, values in map(split, others["policy"])],
        index=others.index,
        columns=["of", "constant", "value"],
    )
    return others.assign(points=100 * (others["hit_rate"] - others["base"])).join(names)


def _panel(axes: Axes, points: pd.DataFrame, constant: str, title: str) -> None:
    swept = points[points["constant"] == constant]
    if swept.empty:
        axes.set_axis_off()
        return
    axes.set_title(title, fontsize="x-small")
    values = sorted(set(swept["value"]), key=lambda value: (len(value), value))
    sizes = sorted(set(swept["x"]))
    for size, color, marker in zip(sizes, _colors(sizes), _MARKERS * len(sizes), strict=False):
        own = swept[swept["x"] == size]
        places = own["value"].map(values.index)
        axes.scatter(places, own["points"], color=color, s=8, alpha=0.35, linewidth=0)
        means = own.groupby(places)["points"].mean()
        axes.plot(means.index, means, color=color, marker=marker, markersize=4)
        as_is = points[points["constant"].isna() & (points["x"] == size)]["points"]
        if len(as_is):
            axes.axhline(as_is.mean(), color=color, linestyle="--", linewidth=0.8)
    axes.set_xticks(range(len(values)), list(map(_said, values)), fontsize="x-small")
    axes.margins(x=0.1)
    axes.legend(
        handles=[
            Line2D([], [], color=color, marker=marker, markersize=4, label=f"{size:,.0f}k")
            for size, color, marker in zip(
                sizes, _colors(sizes), _MARKERS * len(sizes), strict=False
            )
        ],
        fontsize="xx-small",
        handlelength=1.2,
        loc="best",
    )


def _colors(sizes: Sequence[float]) -> list[tuple[float, float, float]]:
    return list(sns.color_palette("colorblind", len(sizes)))


def _said(value: tuple[float, ...]) -> str:
    return textwrap.fill(", ".join(f"{one:g}" for one in value), _TICK_WIDTH)
