"""Why policies differ on one traffic: how far apart its reuse is, how skewed, in what sessions."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.catalogue import Entry
from harness.analysis import traffic
from harness.analysis.results import Results
from harness.analysis.traffic import Traffic

_COLOR = "#0173b2"
# Of the blocks that are used most.
_FEW = 0.1


def draw(results: Results, entry: Entry) -> Figure:
    """Draw reuse distances, use counts and, where there are any, lengths of sessions.

    Raises:
        HarnessError: if the description of the traffic is missing or damaged.

    """
    found = traffic.read(results.folder / "traffic.json")
    study = results.config.study
    assert study is not None

    style.use()
    panels = 3 if found.turns else 2
    figure, grid = plt.subplots(
        1, panels, figsize=(4.4 * panels, 4.4), layout="constrained", squeeze=False
    )
    sizes = sorted({cell.cache_tokens for cell in results.config.cells.values()})
    _distances(grid[0, 0], found, sizes, study.cache_tokens)
    _uses(grid[0, 1], found)
    if found.turns:
        _turns(grid[0, 2], found)
    style.face(
        figure,
        f"{entry.title}. {found.sentence}.",
        "(a) For each look-up of a block, the distinct tokens that others asked for since its last "
        "use; LRU keeps a block about as long as these fit into the cache. Vertical lines: the "
        "cache sizes replayed, the one asked about in grey. What the line does not reach was never "
        "seen before.",
        f"(b) {100 * found.used_once:.0f} % of the {found.distinct_blocks:,} distinct blocks are "
        "used once; LRU keeps these as long as any other. Dotted: every block used as often.",
        "" if found.turns else "The requests name no sessions.",
    )
    return figure


def _distances(axes: Axes, found: Traffic, sizes: list[int], chosen: int) -> None:
    for size in sizes:
        axes.axvline(size / 1000, color="black", linewidth=0.8, linestyle=":")
    axes.axvline(chosen / 1000, color="grey", linewidth=6, alpha=0.25)
    if found.distances:
        tokens, shares = zip(*found.distances, strict=True)
        # A logarithmic scale has no 0, as of what the request before used, too.
        least = min([distance for distance in tokens if distance > 0], default=found.block_size)
        x = np.maximum(tokens, least / 2) / 1000
        axes.step(x, shares, where="post", color=_COLOR, linewidth=1.8)
        axes.plot([x[-1], max(x[-1], sizes[-1] / 1000)], [shares[-1]] * 2, color=_COLOR)
    else:
        style.nothing(axes, "no block was asked for twice")
    axes.set_xscale("log")
    axes.get_xaxis().set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set(
        title="(a) Reuse distance",
        xlabel="thousand distinct tokens since, at most",
        ylabel="share of block look-ups",
        ylim=(0, 1),
    )


def _uses(axes: Axes, found: Traffic) -> None:
    blocks, lookups = np.array(found.uses).T
    axes.plot([0, *blocks], [0, *lookups], color=_COLOR, linewidth=1.8)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    share = float(np.interp(_FEW, [0, *blocks], [0, *lookups]))
    axes.plot([_FEW], [share], "o", color=_COLOR)
    axes.annotate(
        f"the most used {100 * _FEW:.0f} %:\n{100 * share:.0f} % of look-ups",
        (_FEW, share),
        xytext=(0.24, max(0.08, share - 0.2)),
        arrowprops={"arrowstyle": "-", "color": "grey"},
        fontsize="small",
    )
    axes.set(
        title="(b) Skew of use",
        xlabel="share of distinct blocks, the most used first",
        ylabel="share of block look-ups",
        xlim=(0, 1),
        ylim=(0, 1),
    )


def _turns(axes: Axes, found: Traffic) -> None:
    lengths, sessions = np.array(found.turns).T
    # Sessions with so many requests or more.
    share = np.cumsum(sessions[::-1])[::-1] / sessions.sum()
    axes.step([1, *lengths], [1, *share], where="pre", color=_COLOR, linewidth=1.8)
    mean = float(lengths @ sessions / sessions.sum())
    if lengths[-1] > 20:
        axes.set_xscale("log")
    axes.get_xaxis().set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set(
        title=f"(c) Sessions: {mean:.1f} requests on average",
        xlabel="requests, at least",
        ylabel="share of sessions",
        ylim=(0, 1.02),
    )
