"""TTFT and hit rate of conversations by turn, by policy."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import online, style
from figures.catalogue import Entry
from figures.online import Panel
from harness.analysis.results import Results
from harness.analysis.stats import cluster_interval
from harness.errors import HarnessError

# No group of turns has fewer requests, and there are no more groups.
_REQUESTS = 10
_GROUPS = 9
_DODGE = 0.12


def draw(results: Results, entry: Entry) -> Figure:
    """Draw a row for each load: median TTFT with 95 % intervals, and hit rate.

    Raises:
        HarnessError: if cells ran, and none is valid, or of requests that are not conversations.

    """
    selection = online.select(results, entry)
    if not selection.panels:
        return style.not_run(entry.title, selection.reason)
    panels = selection.panels

    style.use()
    figure, grid = plt.subplots(
        len(panels),
        2,
        figsize=(10, 3.2 * len(panels) + 1.4),
        layout="constrained",
        squeeze=False,
    )
    for (ttft, hit_rate), panel in zip(grid, panels, strict=True):
        _row(ttft, hit_rate, results, panel)
        above = f"{panel.title}\n" if len(panels) > 1 else ""
        ttft.set_title(f"{above}(a) Median TTFT", fontsize="small")
        hit_rate.set_title("(b) Hit rate", fontsize="small")
    online.legend(figure, panels, online.again(panels))
    style.face(
        figure,
        *online.setting(results, entry, panels),
        "" if len(panels) > 1 else f"{panels[0].title}.",
        f"{online.since(panels)} 95 % intervals by the bootstrap over conversations; all seeds "
        f"together; late turns together, so that none has fewer than {_REQUESTS} requests.",
        *selection.sentences,
    )
    return figure


def groups(turns: "pd.Series[int]", least: int = _REQUESTS, most: int = _GROUPS) -> list[int]:
    """Return the first turn of each group, in order; the last group is open.

    Args:
        turns: The turn of each request, from 0.
        least: No group has fewer requests, unless there are fewer in all.
        most: No more groups.

    """
    counts = turns.value_counts().reindex(range(int(turns.max()) + 1), fill_value=0)
    last = min(len(counts), most) - 1
    while last and (counts[last:].sum() < least or counts[:last].min() < least):
        last -= 1
    return list(range(last + 1))


def _by_turn(
    requests: pd.DataFrame, last: int, offset: float
) -> tuple[list[float], list[pd.DataFrame]]:
    """Return the requests by turn, the last ones together, and where to draw each."""
    grouped = list(requests.groupby(requests["turn"].astype(int).clip(upper=last)))
    return [turn + offset for turn, _ in grouped], [own for _, own in grouped]


def _row(ttft: Axes, hit_rate: Axes, results: Results, panel: Panel) -> None:
    requests = {policy: panel.requests(results, policy) for policy in panel.policies}
    if any(own["turn"].isna().any() for own in requests.values()):
        raise HarnessError(
            f"the requests of {panel.workload} are not turns of conversations; in the config, give "
            "the workload another name, or a kind that has conversations."
        )
    any_policys = next(iter(requests.values()))["turn"].astype(int)
    firsts = groups(any_policys)
    group_of = any_policys.clip(upper=firsts[-1])
    for place, (policy, own) in enumerate(requests.items()):
        offset = _DODGE * (place - (len(requests) - 1) / 2)
        at, by_turn = _by_turn(own, firsts[-1], offset)
        intervals = [
            cluster_interval(group["ttft_ms"], group["cluster"], 50.0) for group in by_turn
        ]
        looks = {"color": style.COLORS[policy], "marker": style.MARKERS[policy]}
        ttft.errorbar(
            at,
            [interval.value for interval in intervals],
            yerr=style.whiskers(intervals),
            capsize=3,
            **looks,
        )
        again = panel.repeated(results, policy)
        if again is not None:
            # Fewer seeds than are drawn may be measured again, and have fewer turns.
            places, of_turns = _by_turn(again, firsts[-1], offset)
            repeated = {"color": style.COLORS[policy], "linestyle": online.AGAIN}
            ttft.plot(places, [group["ttft_ms"].median() for group in of_turns], **repeated)
            hit_rate.plot(places, [online.hit_rate(group) for group in of_turns], **repeated)
        # First turns often hit nothing.
        hit_rate.plot(
            at, [online.hit_rate(group) for group in by_turn], clip_on=False, zorder=3, **looks
        )
    labels = [
        f"{first}{'+' if first == firsts[-1] and any_policys.max() > first else ''}\n"
        f"n={int((group_of == first).sum())}"
        for first in firsts
    ]
    for axes in (ttft, hit_rate):
        axes.set_xticks(firsts, labels)
        axes.set_xlabel("turn of the conversation, from 0 (n: requests)")
        axes.set_ylim(bottom=0)
    ttft.set_ylabel("TTFT, ms")
    hit_rate.set_ylabel(style.HIT_RATE)
