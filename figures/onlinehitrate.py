"""Hit rate of online traffic over time, by policy."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import online, style
from figures.catalogue import Entry
from figures.online import Panel
from harness.analysis.results import Results

_WINDOW = 50
_MARKERS = 8


def draw(results: Results, entry: Entry) -> Figure:
    """Draw a panel for each workload and load: a line a policy since the start, one of late.

    Raises:
        HarnessError: if cells ran, and none is valid.

    """
    selection = online.select(results, entry)
    if not selection.panels:
        return style.not_run(entry.title, selection.reason)
    # Hit rates hardly depend on the rate, and over several seeds there is no one time.
    panels = [panel.of_first_seed() for panel in online.middle_rate(selection.panels)]

    style.use()
    figure, grid = plt.subplots(
        1,
        len(panels),
        figsize=(max(5.2 * len(panels), 7), 4.6),
        layout="constrained",
        squeeze=False,
    )
    for axes, panel in zip(grid[0], panels, strict=True):
        _panel(axes, results, panel)
    grid[0, 0].set_ylabel(style.HIT_RATE)
    online.legend(
        figure,
        panels,
        [
            Line2D([], [], color="black", linewidth=2, label="since the start"),
            Line2D([], [], color="black", linewidth=0.8, label=f"last {_WINDOW} requests"),
        ],
    )
    style.face(
        figure,
        *online.setting(results, entry, panels),
        f"Requests in the order of sending; of one seed, and of several request rates the middle "
        f"one. Thick: all requests so far; thin: the last {_WINDOW}. Dotted lines where doc-QA's "
        "popularity is shuffled anew.",
        *selection.sentences,
    )
    return figure


def _panel(axes: Axes, results: Results, panel: Panel) -> None:
    policies = panel.policies
    for place, policy in enumerate(policies, start=1):
        requests = online.order_of_sending(panel.requests(results, policy))
        cached, prompt = requests["cached_tokens"], requests["prompt_tokens"]
        color = style.COLORS[policy]
        number = np.arange(1, len(requests) + 1)
        apart = max(1, len(requests) // _MARKERS)
        of_late = cached.rolling(_WINDOW).sum() / prompt.rolling(_WINDOW).sum()
        axes.plot(number, of_late, color=color, linewidth=0.8)
        axes.plot(
            number,
            cached.cumsum() / prompt.cumsum(),
            color=color,
            linewidth=2,
            marker=style.MARKERS[policy],
            # Side by side where lines lie on each other.
            markevery=(apart * place // (len(policies) + 1), apart),
        )
        windows = requests["window"]
        for start in np.flatnonzero(windows.notna() & (windows > windows.shift())):
            axes.axvline(start, color="grey", linestyle=":", linewidth=0.8)
    axes.set_title(panel.title, fontsize="small")
    axes.set(xlabel="requests sent", ylim=(0, None))
