"""Figure 6: hit rate against batch size, in tier replay."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from figures import style
from figures.catalogue import Entry
from figures.results import Results
from harness.analysis import paper
from harness.analysis.stats import mean_interval
from harness.errors import HarnessError

# The text of the paper says 20k; what it plots are the values of 200k (figure 3a).
CACHE_TOKENS = 200_000
_WIDTH = 0.26


def draw(results: Results, entry: Entry) -> Figure:
    """Draw a bar for each policy and batch size, with 95 % intervals, and the paper's points.

    Raises:
        HarnessError: if no valid cell is in the results.

    """
    (workload,), title = entry.workloads, entry.title
    cells = results.of(entry.tier, workload)
    cells = cells[
        (cells["x"].round() == CACHE_TOKENS // 1000) & cells["policy"].isin(style.PAPER_POLICIES)
    ]
    invalid = int((~cells["valid"]).sum())
    cells = cells[cells["valid"]]
    if cells.empty:
        raise HarnessError(f"{title}: no valid cell of {workload} to draw")
    # Only seeds that all batch sizes have, so that they can be compared.
    of_size = cells.groupby("batch_size")["seed"].agg(set)
    cells = cells[cells["seed"].isin(set.intersection(*of_size))]
    sizes = sorted(of_size.index)
    published = paper.points("fig6", workload)
    published = published[published["metric"] == "hit_rate"]

    style.use()
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for place, policy in enumerate(style.PAPER_POLICIES):
        at = [i + (place - 1) * _WIDTH for i in range(len(sizes))]
        own = cells[cells["policy"] == policy]
        intervals = [
            mean_interval(list(own[own["batch_size"] == size]["hit_rate"])) for size in sizes
        ]
        axes.bar(
            at,
            [mean for mean, _ in intervals],
            _WIDTH,
            yerr=[half for _, half in intervals],
            color=style.COLORS[policy],
            capsize=3,
            label=style.LABELS[policy],
        )
        points = published[published["policy"] == policy].set_index("x")["value"]
        axes.plot(
            at,
            [points.get(size, float("nan")) for size in sizes],
            linestyle="",
            marker=style.MARKERS[policy],
            markerfacecolor="white",
            markeredgecolor="black",
            label="paper" if place == 0 else None,
        )
    axes.set_xticks(range(len(sizes)), [f"{size:.0f}" for size in sizes])
    axes.grid(visible=False, axis="x")
    axes.set(
        xlabel="batch size", ylabel="hit rate (cached / queried prompt tokens)", ylim=(0, 0.62)
    )
    axes.legend(loc="upper right", ncols=4, fontsize="small")
    seeds = sorted(set(cells["seed"]))
    style.face(
        figure,
        f"{title}. Tier replay: vLLM's scheduler and block pool without a model, cache of "
        f"{CACHE_TOKENS:,} tokens, block size {results.config.tiers['replay'].block_size}, "
        f"{int(cells['requests'].iloc[0]):,} requests of {workload}; "
        + (
            f"mean and 95 % interval over seeds {', '.join(map(str, seeds))}."
            if len(seeds) > 1
            else f"seed {seeds[0]}."
        ),
        f"{invalid} invalid cells not drawn." if invalid else "",
    )
    return figure
