"""Hit rate against cache size, of any workload, engine, load and policy.

It takes nothing for granted but ``cells.csv``, so that a user's own trace has a figure, too.
"""

import math
from collections.abc import Mapping
from typing import Literal

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import captions, style
from figures.catalogue import Entry
from harness.analysis.policies import INFINITE, OPTIMUM
from harness.analysis.results import Results, not_run
from harness.analysis.stats import mean_interval
from harness.config import Study
from harness.engines.registry import ENGINES
from harness.errors import HarnessError
from harness.policies import Policy

_COLUMNS = 3
# More panels cannot be read on one page.
_MOST = 6
# Of a policy's points, by which it is set apart, so that none hides another: a factor.
_DODGE = 1.012
_LOGARITHMIC = 4.0
# What is shown on either side of the only size, as a factor.
_AROUND = 2.0
# Of sizes, that there is room for on an axis.
_NAMES = 9
_BOUNDS: Mapping[str, tuple[Literal["--", ":"], str]] = {
    OPTIMUM: ("--", "offline optimum"),
    INFINITE: (":", "infinite cache"),
}


def draw(results: Results, entry: Entry) -> Figure:
    """Draw a panel for each engine and load, a line a policy, or why the cells were not run.

    Raises:
        HarnessError: if cells ran, and none is valid.

    """
    (workload,) = entry.workloads
    found = results.cells_of(entry.tier, entry.workloads, entry.modes)
    if reason := not_run(found):
        return style.not_run(entry.title, reason)
    cells = found[found["valid"]]
    if cells.empty:
        raise HarnessError(captions.none_valid(found))
    loads = [captions.load(results.load(str(name))) for name in cells["cell"]]
    panels = list(cells.assign(load=loads).groupby(["engine", "load"], sort=False))
    drawn, more = panels[:_MOST], panels[_MOST:]

    style.use()
    columns = min(len(drawn), _COLUMNS)
    rows = math.ceil(len(drawn) / columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(max(4.4 * columns, 7.6), 3.9 * rows + 1.0),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    looks = style.looks(cells["policy"])
    bounds = _bounds(results, workload) if entry.tier == "replay" else {}
    for axes, ((engine, load), own) in zip(grid.flat, drawn, strict=False):
        _lines(axes, own, looks)
        for name, points in bounds.items() if _has_bounds(own) else ():
            at = points if len(points[0]) > 1 else _across(*points)
            axes.plot(*at, color="black", linestyle=_BOUNDS[name][0], linewidth=1.3)
        if len(panels) > 1:
            axes.set_title(f"{engine}: {load}", fontsize="small")
        _sizes(axes, sorted(set(own["x"])), results.config.study)
    for axes in list(grid.flat)[len(drawn) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel(style.HIT_RATE)
    top = max(axes.dataLim.y1 for axes in list(grid.flat)[: len(drawn)])
    grid[0, 0].set_ylim(0, min(1.0, 1.08 * top) if top > 0 else 1)
    handles = [
        Line2D([], [], color=look.color, marker=look.marker, label=look.label)
        for look in looks.values()
    ]
    if bounds and any(_has_bounds(own) for _, own in drawn):
        handles += [
            Line2D([], [], color="black", linestyle=_BOUNDS[name][0], label=_BOUNDS[name][1])
            for name in bounds
        ]
    # Without a frame it would touch that of the panels.
    figure.legend(handles=handles, loc="outside right center", frameon=False, borderpad=1.5)
    style.face(
        figure,
        *_sentences(results, entry, cells),
        *(f"Not drawn, for want of room: {engine}, {load}." for (engine, load), _ in more),
        captions.not_drawn(len(found) - len(cells)),
    )
    return figure


def _across(sizes: list[float], hit_rates: list[float]) -> tuple[list[float], list[float]]:
    """Return a line through the one point that there is."""
    return [sizes[0] / _AROUND, sizes[0] * _AROUND], 2 * hit_rates


def _has_bounds(cells: pd.DataFrame) -> bool:
    """Return whether bounds are of these cells: in batches of one."""
    return bool((cells["batch_size"] == 1).all())


def _lines(axes: Axes, cells: pd.DataFrame, looks: Mapping[str, Policy]) -> None:
    """Draw means of the seeds with 95 % intervals."""
    own = {policy: look for policy, look in looks.items() if policy in set(cells["policy"])}
    for place, (policy, look) in enumerate(own.items()):
        by_size = cells[cells["policy"] == policy].groupby("x")["hit_rate"]
        intervals = [mean_interval(list(values)) for _, values in by_size]
        axes.errorbar(
            [
                float(x) * _DODGE ** (place - (len(own) - 1) / 2)  # type: ignore[arg-type]
                for x in by_size.groups
            ],
            [mean for mean, _ in intervals],
            # One seed has no interval.
            yerr=[half for _, half in intervals],
            color=look.color,
            marker=look.marker,
            markersize=5,
            capsize=3,
            zorder=3,
        )


def _bounds(results: Results, workload: str) -> dict[str, tuple[list[float], list[float]]]:
    """Return the hit rates of the bounds, by cache size in thousand tokens."""
    table = results.policies
    found = {}
    for name in _BOUNDS:
        own = table[(table["workload"] == workload) & (table["policy"] == name)]
        if not own.empty:
            found[name] = (list(own["cache_tokens"] / 1000), list(own["hit_rate"]))
    return found


def _sizes(axes: Axes, sizes: list[float], study: Study | None) -> None:
    if sizes[-1] > _LOGARITHMIC * sizes[0]:
        axes.set_xscale("log")
        axes.minorticks_off()
    if len(sizes) == 1:
        # Else the few hundredths by which policies are moved apart would fill the axis.
        axes.set_xlim(sizes[0] / _AROUND, sizes[0] * _AROUND)
    shown = _told_apart(sizes)
    axes.set_xticks(sizes, [_short(size) if size in shown else "" for size in sizes])
    axes.set_xlabel("KV cache size, thousand tokens")
    if study is not None:
        chosen = study.cache_tokens / 1000
        axes.axvline(chosen, color="grey", linewidth=6, alpha=0.25, zorder=0)
        gib = axes.secondary_xaxis("top")
        gib.minorticks_off()
        gib.set_xticks(shown, [_short(study.gib(1000 * size)) for size in shown])
        gib.minorticks_off()
        gib.set_xlabel(f"GiB of KV cache, {study.model}")


def _short(value: float) -> str:
    return f"{float(f'{value:.4g}' if value >= 1000 else f'{value:.3g}'):,.12g}"


def _told_apart(sizes: list[float]) -> list[float]:
    """Return the sizes whose names do not run into each other's."""
    least = (sizes[-1] / sizes[0]) ** (1 / _NAMES)
    shown = sizes[:1]
    for size in sizes[1:]:
        if size >= least * shown[-1]:
            shown.append(size)
    return shown


def _sentences(results: Results, entry: Entry, cells: pd.DataFrame) -> list[str]:
    (workload,) = entry.workloads
    settings = results.config.tiers[entry.tier]
    engines = " and ".join(ENGINES[name].description for name in dict.fromkeys(cells["engine"]))
    loads = dict.fromkeys(captions.load(results.load(str(name))) for name in cells["cell"])
    requests = " to ".join(f"{n:,}" for n in dict.fromkeys(sorted({*cells["requests"]})))
    model = "" if entry.tier == "replay" else f", model {settings.model} ({settings.dtype})"
    said = [
        f"{entry.title}. Tier {entry.tier}: {engines}{model}, block size {settings.block_size}"
        f"{', ' + next(iter(loads)) if len(loads) == 1 else ''}. "
        f"{requests} {'request' if requests == '1' else 'requests'}"
        f"{captions.warm_up(results.config.workloads[workload])}; "
        f"{captions.over_seeds(cells['seed'])}."
    ]
    if study := results.config.study:
        said.append(f"Grey: {study.cache_tokens:,} tokens, the size asked about.")
    scale = results.config.scale(entry.tier, workload)
    return [*said, "" if scale == 1 else "Cache sizes at the paper's scale."]
