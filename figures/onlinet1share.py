"""ARC's split between recent and frequent blocks in online traffic, after each turn."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import online, style
from figures.catalogue import Entry
from harness.analysis.results import Results

_POLICY = "arc"
# With fewer points, each is shown.
_FEW = 40


def draw(results: Results, entry: Entry) -> Figure:
    """Draw T1's share of the cache, and the share that it is meant to have: a panel a load.

    Raises:
        HarnessError: if cells ran, and none is valid.

    """
    selection = online.select(results, entry)
    if not selection.panels:
        return style.not_run(entry.title, selection.reason)
    panels = [panel.of_first_seed() for panel in selection.panels]
    panels = [panel for panel in panels if _POLICY in panel.policies]

    style.use()
    figure, grid = plt.subplots(
        1,
        len(panels),
        figsize=(max(4.6 * len(panels), 7), 4.2),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for axes, panel in zip(grid[0], panels, strict=True):
        (cell,) = (row for _, row in panel.cells.iterrows() if row["policy"] == _POLICY)
        blocks = int(cell["cache_tokens"]) // results.config.tiers[entry.tier].block_size
        _panel(axes, results.telemetry(cell), blocks)
        axes.set_title(panel.title, fontsize="small")
    grid[0, 0].set(ylabel="share of the cache", ylim=(0, 1))
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    style.face(
        figure,
        *online.setting(results, entry, panels),
        "Blocks in T1 (used once of late) as a share of the cache, and p, the share that ARC means "
        "it to have, asked of the server after each turn of requests.",
        *selection.sentences,
    )
    return figure


def _panel(axes: Axes, state: pd.DataFrame, blocks: int) -> None:
    marker = "o" if len(state) <= _FEW else ""
    for name, label, line, width in (("t1", "T1", "-", 1.6), ("p", "p, meant for T1", "--", 1.2)):
        axes.plot(
            state["request"] + 1,
            state[name] / blocks,
            color=style.COLORS[_POLICY],
            linestyle=line,
            linewidth=width,
            marker=marker,
            markersize=3,
            label=label,
        )
    axes.set(xlabel="requests answered", xlim=(0, None))
