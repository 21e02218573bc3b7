"""Where policies help: points over LRU over the kind of traffic and the size of the cache.

A config with a map draws its own (``maps``). A study draws the one that is shipped, with its
traffic marked on it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from figures import captions, style
from figures.catalogue import Entry
from harness.analysis import maps, paper, traffic
from harness.analysis.maps import Kind
from harness.analysis.results import Results, not_run
from harness.config import Study

_ROWS = {"arc": "ARC less LRU", "best": "best other policy less LRU"}
# Places between which a column is interpolated.
_FINE = 120
_STEP = 2.0
# Less than this, in points, has no colour.
_NOTHING = 0.5
_COLORS = "RdBu"
_PAPERS, _PAPERS_EXPONENT = "docqa-quality", 1.0
_MARKS = {
    "full": ("s", 55, "at full size"),
    "paper": ("o", 60, "the paper's points (ARC)"),
    "trace": ("^", 75, "real trace"),
    "mine": ("*", 190, "this traffic, larger at the cache asked about"),
}


@dataclass(frozen=True)
class _Marks:
    """Points of one look on a map: where, their cache's share, and what was gained there."""

    look: str
    x: Sequence[float]
    share: Sequence[float]
    points: Sequence[float]
    sizes: Sequence[float] | None = None


def draw(results: Results, entry: Entry) -> Figure:
    """Draw a column for each map, and a row each for ARC and for the best of the policies.

    Raises:
        HarnessError: if a table is missing or damaged.

    """
    found = results.cells_of(entry.tier, entry.workloads, entry.modes)
    if reason := not_run(found):
        return style.not_run(entry.title, reason)
    study = results.config.study
    made = maps.read(maps.SHIPPED if study else results.folder / "map.csv")
    kinds: list[Kind] = [
        kind for kind in get_args(Kind) if maps.of(made, kind, "reduced")["given"].nunique() > 1
    ]
    mine = None
    if study:
        mine = traffic.read(results.folder / "traffic.json")
        kinds = [kind for kind in kinds if kind == maps.kind_of(mine)]

    style.use()
    figure, grid = plt.subplots(
        len(_ROWS),
        len(kinds),
        figsize=(max(6.0 * len(kinds), 8.4), 8.6),
        layout="constrained",
        squeeze=False,
    )
    limit = float(made[list(_ROWS)].abs().max().max())
    looks: set[str] = set()
    for column, kind in enumerate(kinds):
        for axes, name in zip(grid[:, column], _ROWS, strict=True):
            marks = list(_marks(made, kind, name))
            if study and mine:
                marks.append(_mine(results, study, made, mine, name))
            _panel(axes, made, kind, name, limit, marks)
            looks |= {each.look for each in marks if len(each.x)}
        _sessions(grid[0, column], made, kind)
    bar = figure.colorbar(
        ScalarMappable(Normalize(-limit, limit), _COLORS),
        ax=grid,
        shrink=0.6,
        label="points over LRU",
    )
    bar.ax.axhline(0, color="black", linewidth=1.8)
    figure.legend(
        handles=list(_handles(looks)),
        loc="outside lower center",
        ncols=3,
        fontsize="small",
        frameon=False,
    )
    style.face(figure, *_sentences(results, entry, made, kinds))
    return figure


def _panel(
    axes: Axes, made: pd.DataFrame, kind: Kind, name: str, limit: float, marks: Sequence[_Marks]
) -> None:
    reduced = maps.of(made, kind, "reduced")
    shares = np.geomspace(reduced["share"].min(), reduced["share"].max(), _FINE)
    given = sorted(set(reduced["given"]))
    z = np.column_stack(
        [maps.between(reduced[reduced["given"] == value], shares, name) for value in given]
    )
    norm = Normalize(-limit, limit)
    top = _STEP * np.ceil(limit / _STEP)
    steps = np.arange(_STEP, top + _STEP, _STEP)
    levels = [*-steps[::-1], -_NOTHING, _NOTHING, *steps]
    axes.contourf(given, shares, z, levels=levels, cmap=_COLORS, norm=norm, extend="both")
    others = [level for level in levels if abs(level) > _NOTHING]
    lines = axes.contour(given, shares, z, levels=others, colors="dimgray", linewidths=0.6)
    for text in axes.clabel(lines, fmt="%+g", fontsize=8, colors="black"):
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])
    if np.nanmin(z) < 0 < np.nanmax(z):
        axes.contour(given, shares, z, levels=[0], colors="black", linewidths=2.2)
    axes.scatter(reduced["given"], reduced["share"], s=4, color="dimgray", zorder=3)
    for each in marks:
        marker, size, _ = _MARKS[each.look]
        axes.scatter(
            each.x,
            each.share,
            c=each.points,
            s=size if each.sizes is None else each.sizes,
            marker=marker,
            cmap=_COLORS,
            norm=norm,
            edgecolors="black",
            linewidths=1.0,
            zorder=5,
            clip_on=False,
        )
    axes.set_yscale("log")
    if kind == "conversations":
        axes.set_xscale("log")
        axes.set_xticks(given, [f"{value:g}" for value in given])
        axes.get_xaxis().set_minor_locator(NullLocator())
    axes.get_yaxis().set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.get_yaxis().set_major_formatter(lambda value, _: f"{value:g}")
    axes.get_yaxis().set_minor_formatter(NullFormatter())
    what = {
        "documents": ("Zipf exponent of documents", "cache / working set"),
        "conversations": ("think time, s", "cache / what live sessions hold"),
    }[kind]
    axes.set(title=f"{kind}: {_ROWS[name]}", xlabel=what[0], ylabel=what[1])
    axes.grid(visible=False)


def _marks(made: pd.DataFrame, kind: Kind, name: str) -> Iterator[_Marks]:
    full = maps.of(made, kind, "full")
    yield _Marks("full", list(full["given"]), list(full["share"]), list(full[name]))
    of_papers = full[full["given"] == _PAPERS_EXPONENT]
    if kind == "documents" and name == "arc" and len(of_papers):
        holds = of_papers["holds_tokens"].iloc[0]
        rates = paper.joined(_PAPERS).pivot_table(
            index="cache_tokens", columns="policy", values="hit_rate"
        )
        gains = 100 * (rates["arc"] - rates["lru"]).dropna()
        # Beside ours, of which some are at the same place.
        x = [_PAPERS_EXPONENT + 0.035] * len(gains)
        yield _Marks("paper", x, [size / holds for size in gains.index], list(gains))
    traces = maps.of(made, kind, "trace")
    x = [maps.given(made, kind, measure) for measure in traces["measure"]]
    yield _Marks("trace", x, list(traces["share"]), list(traces[name]))


def _mine(
    results: Results, study: Study, made: pd.DataFrame, mine: traffic.Traffic, name: str
) -> _Marks:
    kind = maps.kind_of(mine)
    found = results.policies
    own = found[(found["kind"] == "engine") & (found["policy"] != "lru")]
    if name == "arc":
        own = own[own["policy"] == "arc"]
    gains = own.groupby("cache_tokens")["points_over_lru"].max().dropna()
    x = maps.given(made, kind, maps.measure(mine, kind))
    shares = [float(size) / maps.holds_tokens(mine, kind) for size in gains.index]
    chosen = min(gains.index, key=lambda size: abs(size - study.cache_tokens))
    area = _MARKS["mine"][1]
    sizes = [2.2 * area if size == chosen else 0.6 * area for size in gains.index]
    return _Marks("mine", [x] * len(gains), shares, list(gains), sizes)


def _sessions(axes: Axes, made: pd.DataFrame, kind: Kind) -> None:
    """Say on top what the map's own workloads measure."""
    known = maps.of(made, kind, "reduced").drop_duplicates("workload")
    top = axes.secondary_xaxis("top")
    percent = kind == "documents"
    top.set_xticks(
        list(known["given"]),
        [f"{100 * value:.0f} %" if percent else f"{value:.0f}" for value in known["measure"]],
        fontsize="x-small",
    )
    top.get_xaxis().set_minor_locator(NullLocator())
    top.set_xlabel(
        "look-ups of the most used tenth of blocks" if percent else "live sessions",
        fontsize="x-small",
    )


def _handles(looks: set[str]) -> Iterator[Line2D]:
    yield Line2D([], [], color="black", linewidth=2.2, label="as good as LRU")
    yield Line2D([], [], color="dimgray", marker=".", linestyle="", label="replayed")
    look: Any = {"color": "white", "markeredgecolor": "black", "linestyle": ""}
    for name, (marker, _, label) in _MARKS.items():
        if name in looks:
            yield Line2D([], [], marker=marker, label=label, **look)


def _sentences(
    results: Results, entry: Entry, made: pd.DataFrame, kinds: Sequence[Kind]
) -> Iterator[str]:
    if results.config.study:
        yield (
            f"{entry.title}. The map, from which stars may differ, is of the run in "
            "reference/map; what is marked has the colour of its own gain."
        )
    else:
        yield (
            f"{entry.title}. {captions.engine(results, entry)}, one request at a time. White: "
            f"less than {_NOTHING:g} points. What is marked has the colour of its own gain."
        )
    for kind in kinds:
        yield _WHAT[kind]
    differences = [
        f"{kind} {arc:.1f} points for ARC, {best:.1f} for the best ({count} squares)"
        for kind in kinds
        for (arc, count), (best, _) in [[maps.rms(made, kind, name) for name in _ROWS]]
        if count
    ]
    if differences:
        yield (
            "All but the squares is at a quarter of the size; full size differs from that by, root "
            f"mean square: {'; '.join(differences)}."
        )
    drawn = set(made["workload"])
    missing = [name for name in results.config.workloads if name not in drawn]
    if missing and not results.config.study:
        yield f"Not to be had here: {', '.join(missing)}."


_WHAT = {
    "documents": (
        "Documents: the working set is all distinct tokens asked for. Traffic without an exponent "
        "is where the most used tenth of its blocks, in 512 requests, gets as many look-ups."
    ),
    "conversations": (
        "Conversations (ShareGPT): a session is live from its first request to its last; it holds "
        "its latest prompt. Traffic without a think time is where as many sessions are live."
    ),
}
