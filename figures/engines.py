"""ARC's hit rate less LRU's against cache size, in tier replay, on each engine and in the paper."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import captions, style
from figures.catalogue import Entry
from harness.analysis import paper
from harness.analysis.results import Results, not_run
from harness.analysis.stats import mean_interval
from harness.engines import registry
from harness.errors import HarnessError

# Engines have no colours of their own: policies have.
_LOOKS = (("#0173b2", "^", "-"), ("#d55e00", "s", "-"))


def draw(results: Results, entry: Entry) -> Figure:
    """Draw a line for each package, or why one was not run.

    Raises:
        HarnessError: if cells ran, and those of a package are not valid.

    """
    (workload,) = entry.workloads
    style.use()
    figure, axes = plt.subplots(figsize=(6.6, 4.6), layout="constrained")
    seeds: set[int] = set()
    described = []
    for package, look in zip(entry.packages, _LOOKS, strict=True):
        found = results.on(package).of(entry.tier, workload)
        found = found[found["batch_size"] == 1]
        if reason := not_run(found):
            return style.not_run(entry.title, reason)
        cells = found[found["valid"] & found["policy"].isin(("lru", "arc"))]
        if cells.empty:
            raise HarnessError(captions.none_valid(found))
        kind = registry.patched(package, entry.tier)
        _gains(axes, cells, kind.project, look)
        seeds |= set(cells["seed"])
        described.append(kind.description)
    published = paper.comparable(workload).pivot_table(
        index="cache_tokens", columns="policy", values="hit_rate"
    )
    axes.plot(
        published.index / 1000,
        100 * (published["arc"] - published["lru"]),
        color="grey",
        marker="o",
        markerfacecolor="white",
        linestyle=":",
        label="paper (vLLM)",
    )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="KV cache size, thousand tokens", ylabel="hit rate, ARC less LRU, points")
    axes.legend()
    settings = results.config.tiers[entry.tier]
    style.face(
        figure,
        f"{entry.title}. Tier {entry.tier}: {' and '.join(described)}, the same requests, block "
        f"or page size {settings.block_size}, one request at a time; "
        f"{captions.over_seeds(sorted(seeds))}.",
    )
    return figure


def _gains(axes: Axes, cells: pd.DataFrame, name: str, look: tuple[str, str, str]) -> None:
    wide = cells.pivot_table(index=["x", "seed"], columns="policy", values="hit_rate")
    gains = (100 * (wide["arc"] - wide["lru"])).dropna().groupby("x")
    intervals = [mean_interval(list(of_size)) for _, of_size in gains]
    color, marker, line = look
    axes.errorbar(
        [float(x) for x in gains.groups],  # type: ignore[arg-type]
        [mean for mean, _ in intervals],
        yerr=[half if half == half else 0.0 for _, half in intervals],
        color=color,
        marker=marker,
        linestyle=line,
        capsize=3,
        label=name,
    )
