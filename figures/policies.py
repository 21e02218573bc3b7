"""All policies side by side: what each gains over LRU, and the cache that LRU would need for it.

A row for each workload. Policies in the engine look as everywhere; those replayed outside it are
thin, in one colour for each kind.
"""

import math
from collections.abc import Iterator, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import captions, style
from figures.catalogue import Entry
from harness import kvcache
from harness.analysis.policies import INFINITE, KNOWN_POPULARITY, OPTIMUM
from harness.analysis.results import Results, not_run
from harness.errors import HarnessError

# How each kind is drawn, from light to dark, and what a legend says of it, in its order.
_KINDS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "chains": (("#93a8ba", "#64798c", "#37495a"), "see whose blocks"),
    "told": (("#c08552", "#8a5226"), "know the future"),
    "blocks": (("#c4c4c4", "#a6a6a6", "#878787"), "see blocks only"),
}
_MARKERS = "o^sDvPX*<>"
_BOUNDS = {OPTIMUM: ("--", "offline optimum"), KNOWN_POPULARITY: (":", "known popularity")}
# Losses are drawn down to as many times the largest gain.
_DEEPEST = 0.6
_LOGARITHMIC = 4.0


def draw(results: Results, entry: Entry) -> Figure:
    """Draw two panels a workload, or why none was run.

    Raises:
        HarnessError: if cells ran, and there is no LRU to compare with.

    """
    found = results.cells_of(entry.tier, entry.workloads, entry.modes)
    if reason := not_run(found):
        return style.not_run(entry.title, reason)
    table = results.policies[results.policies["workload"].isin(entry.workloads)]
    table = table[(table["policy"] != INFINITE) & table["points_over_lru"].notna()]
    workloads = [name for name in entry.workloads if name in set(table["workload"])]
    if not workloads:
        raise HarnessError(captions.none_valid(found))

    style.use()
    figure, grid = plt.subplots(
        len(workloads),
        2,
        figsize=(12.6, 2.4 + 3.7 * len(workloads)),
        layout="constrained",
        squeeze=False,
    )
    looks = _looks(table)
    leaving = False
    for (gain, cache), workload in zip(grid, workloads, strict=True):
        own = table[table["workload"] == workload]
        leaving |= _gains(gain, own, looks)
        _caches(cache, own, looks)
        for axes, what in ((gain, "gain over LRU"), (cache, "LRU's cache for as many hits")):
            axes.set_title(f"{workload}: {what}", fontsize="small")
            _sizes(axes, sorted(set(own["cache_tokens"])))
    _legend(figure, looks)
    style.face(figure, *_sentences(results, entry, table, leaving=leaving))
    return figure


_Looks = Mapping[tuple[str, str], Mapping[str, object]]


def _looks(table: pd.DataFrame) -> _Looks:
    """Return how to draw each kind and policy, in the order of a legend."""
    names = {kind: list(dict.fromkeys(own["policy"])) for kind, own in table.groupby("kind")}
    found: dict[tuple[str, str], Mapping[str, object]] = {
        ("engine", name): {
            "color": look.color,
            "marker": look.marker,
            "linewidth": 1.8,
            "zorder": 4,
            "label": look.label,
        }
        for name, look in style.looks(names.get("engine", [])).items()
    }
    for kind, (colors, _) in _KINDS.items():
        for place, name in enumerate(sorted(names.get(kind, []))):
            found[kind, name] = {
                "color": colors[place % len(colors)],
                "marker": _MARKERS[place % len(_MARKERS)],
                "markersize": 4,
                "linewidth": 0.9,
                "zorder": 3 if kind != "blocks" else 2,
                "label": name,
            }
    for name, (line, label) in _BOUNDS.items():
        if name in names.get("bound", []):
            found["bound", name] = {
                "color": "black",
                "linestyle": line,
                "linewidth": 1.2,
                "marker": "o",
                "markersize": 3,
                "label": label,
            }
    return found


def _gains(axes: Axes, table: pd.DataFrame, looks: _Looks) -> bool:
    """Draw points over LRU; return whether any leaves the panel."""
    for (kind, policy), look in looks.items():
        own = table[(table["kind"] == kind) & (table["policy"] == policy)]
        axes.plot(own["cache_tokens"] / 1000, own["points_over_lru"], **look)  # type: ignore[arg-type]
    top = max(1.0, table["points_over_lru"].max())
    lowest = table["points_over_lru"].min()
    axes.set_ylim(max(1.1 * min(lowest, -0.1 * top), -_DEEPEST * top), 1.08 * top)
    axes.set_ylabel("hit rate less LRU's, points")
    return bool(lowest < axes.get_ylim()[0])


def _caches(axes: Axes, table: pd.DataFrame, looks: _Looks) -> None:
    """Draw how many times as large LRU's cache would have to be, as far as its sizes tell."""
    axes.set_yscale("log")
    lru = table[(table["kind"] == "engine") & (table["policy"] == "lru")]["cache_tokens"]
    for (kind, policy), look in looks.items():
        own = table[(table["kind"] == kind) & (table["policy"] == policy)]
        sizes, known = own["cache_tokens"], own["lru_tokens"].clip(lru.min(), lru.max())
        is_known = own["lru_tokens"] == known
        axes.plot(sizes / 1000, (known / sizes).where(is_known), **look)  # type: ignore[arg-type]
        # No line to it: that it comes nearer to LRU's with its size says nothing of the policy.
        hollow = {**look, "linestyle": "", "markerfacecolor": "white"}
        axes.plot(sizes[~is_known] / 1000, (known / sizes)[~is_known], **hollow)  # type: ignore[arg-type]
    low, high = axes.get_ylim()
    x = np.geomspace(table["cache_tokens"].min(), table["cache_tokens"].max())
    for limit, edge in ((lru.max(), high), (lru.min(), low)):
        axes.fill_between(x / 1000, limit / x, edge, color="grey", alpha=0.15, linewidth=0)
    axes.set_ylim(low, high)
    ticks = [tick for tick in (0.1, 0.2, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20) if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}\N{MULTIPLICATION SIGN}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylabel("LRU's cache / the policy's")


def _sizes(axes: Axes, sizes: list[float]) -> None:
    if sizes[-1] > _LOGARITHMIC * sizes[0]:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks([size / 1000 for size in sizes], [f"{size / 1000:,.4g}" for size in sizes])
    gib = axes.secondary_xaxis("top")
    model = kvcache.MODELS[kvcache.DEFAULT]
    gib.set_xticks(
        [size / 1000 for size in sizes],
        [f"{size * model.bytes_per_token / 2**30:,.3g}" for size in sizes],
    )
    gib.minorticks_off()
    axes.set_xlabel("KV cache size, thousand tokens")
    gib.set_xlabel(f"GiB, {model.model}", fontsize="x-small")


def _legend(figure: Figure, looks: _Looks) -> None:
    """Add a legend with a column for each kind."""
    kinds = {"engine": "in the engine"} | {kind: said for kind, (_, said) in _KINDS.items()}
    columns = []
    for kind, said in (kinds | {"bound": "out of reach"}).items():
        own = [look for (each, _), look in looks.items() if each == kind]
        if own:
            heading = Line2D([], [], linestyle="", label=f"$\\bf{{{kind}}}$: {said}")
            columns.append([heading, *(Line2D([], [], **look) for look in own)])  # type: ignore[arg-type]
    rows = max(map(len, columns))
    blank = Line2D([], [], linestyle="", label=" ")
    figure.legend(
        handles=[each for column in columns for each in [*column, *[blank] * (rows - len(column))]],
        loc="outside lower center",
        ncols=len(columns),
        fontsize="small",
        frameon=False,
    )


def _sentences(
    results: Results, entry: Entry, table: pd.DataFrame, *, leaving: bool
) -> Iterator[str]:
    settings = results.config.tiers[entry.tier]
    yield (
        f"{entry.title}. Tier {entry.tier}, block size {settings.block_size}, one request at a "
        "time. Means over the seeds that a policy and LRU both have."
    )
    if set(table["kind"]) & _KINDS.keys():
        yield (
            "Thick: policies in the patched engine. Thin: policies that others propose, replayed "
            "outside it. Of these, chains see of which prompts blocks are; told are told what no "
            "engine knows, and so are not to be had as drawn; blocks see single blocks only, know "
            "no prefixes and hold nothing for running requests."
        )
    yield "Right: the cache at which LRU would hit as much, interpolated between its sizes."
    if np.isin(table["lru_tokens"], (0, math.inf)).any():
        yield (
            "Hollow, at the edge of what is shaded: at least so much, or at most, as LRU's largest "
            "cache hits less than the policy, or its smallest more."
        )
    if leaving:
        yield "Lines that leave a panel at the bottom lose more than it shows."
