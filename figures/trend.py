"""Claims night by night: ``python -m figures.trend HISTORY OUT.png`` draws it, and a PDF beside it.

A panel for each claim that ``harness gate`` guards, or guarded on some night of the history.
"""

import sys
import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures import command, style
from harness.analysis import gate
from harness.analysis.gate import Judgement, Kind, Night
from harness.errors import HarnessError

# The claim's own words are above the panel.
_QUANTITIES = {"hit_rate": "ARC less LRU", "ttft": "ARC to LRU"}
_OURS: dict[str, Any] = {"color": style.COLORS["arc"], "marker": "o", "markersize": 3}
_PAPER: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1}
_ALLOWED: dict[str, Any] = {"color": style.COLORS["slru"], "alpha": 0.2, "linewidth": 0}
_CHANGE: dict[str, Any] = {"color": "black", "linestyle": "-.", "linewidth": 1}
# A night of several kinds has the mark of the first of them.
_MARKS: dict[Kind, str] = {
    "not run": "v",
    "direction lost": "X",
    "out of tolerance": "s",
    "drift": "D",
}
_ALARM: dict[str, Any] = {
    "color": style.COLORS["dbl"],
    "markeredgecolor": "black",
    "markersize": 7,
    "linestyle": "",
    "zorder": 4,
}
# Characters of a panel's title in a line.
_TITLE = 60


def draw(nights: Sequence[Night]) -> Figure:
    """Draw claims over nights, with the alarms that the gate raises knowing the nights before.

    Args:
        nights: Ordered by date.

    """
    panels: dict[gate.Key, dict[int, Judgement]] = {}
    for i, night in enumerate(nights):
        for judgement in gate.judge(night, nights[:i]):
            panels.setdefault(judgement.claim.key, {})[i] = judgement
    guarded = {
        key: own for key, own in panels.items() if any(each.guarded for each in own.values())
    }
    if not guarded:
        return style.not_drawn(
            "Claims night by night",
            f"none is guarded yet: of {len(nights)} nights there is no claim that held in most of "
            f"{gate.LEAST_NIGHTS} or more.",
        )

    style.use()
    columns = min(len(guarded), 2)
    rows = -(-len(guarded) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(5.5 * columns, 2.6 * rows + 0.8),
        layout="constrained",
        squeeze=False,
        sharex=True,
    )
    for axes in grid.flat[len(guarded) :]:
        axes.remove()
    shown = grid.flat[: len(guarded)]
    for axes, own in zip(shown, guarded.values(), strict=True):
        _panel(axes, nights, own)
    # Also where the panel below is left out.
    for axes in shown[-columns:]:
        axes.tick_params(labelbottom=True)
    figure.legend(handles=_legend(nights, guarded.values()), loc="outside lower center", ncols=4)
    left_out = [key for key, own in panels.items() if key not in guarded and _ran(own)]
    style.face(
        figure,
        f"Claims night by night: {len(nights)} nights, {nights[0].date:%Y-%m-%d} to "
        f"{nights[-1].date:%Y-%m-%d}. Of each night's own cells; means over a claim's points, "
        "intervals of 95 %. Alarms as `harness gate` raises them; size is judged at each point, "
        "so that a mean of an allowed size can raise one.",
        "Not guarded, since they did not hold or are new: "
        f"{', '.join(' '.join(key) for key in left_out)}."
        if left_out
        else "",
    )
    return figure


def _ran(own: dict[int, Judgement]) -> list[int]:
    return [i for i, judgement in own.items() if judgement.claim.ran]


def _panel(axes: Axes, nights: Sequence[Night], own: dict[int, Judgement]) -> None:
    """Draw a claim: ours, the paper's value, the allowed size, what is noise, and alarms."""
    ran = _ran(own)
    last, tier = own[ran[-1]].claim, own[ran[-1]].claim.tier
    axes.axhline(0, color="black", linewidth=1)
    noise = gate.noise(own[i].claim for i in ran)
    if noise is not None:
        band = gate.BAND * noise
        axes.axhspan(-band, band, color=style.COLORS["lru"], alpha=0.25, linewidth=0)
    if last.paper is not None:
        axes.axhline(last.paper, **_PAPER)
    if last.allowed is not None:
        axes.axhspan(*last.allowed, **_ALLOWED)
    # A night without a value is a gap in the line.
    values, ends = np.full(len(nights), np.nan), np.full((len(nights), 2), np.nan)
    for i in ran:
        values[i] = own[i].claim.ours
        ends[i] = own[i].claim.ci95 or (own[i].claim.ours, own[i].claim.ours)
    axes.errorbar(
        [night.date for night in nights],  # type: ignore[arg-type]
        values,
        yerr=[values - ends[:, 0], ends[:, 1] - values],
        linewidth=1,
        elinewidth=0.6,
        zorder=3,
        **_OURS,
    )
    for before, night in pairwise(nights[i] for i in ran):
        if gate.changed(night, before, tier):
            axes.axvline(night.date, **_CHANGE)  # type: ignore[arg-type]
    for i, judgement in own.items():
        if judgement.alarms:
            _alarm(axes, nights[i], judgement)
    locator = AutoDateLocator(maxticks=8)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    quantity = _QUANTITIES.get(last.quantity, last.quantity.replace("_", " "))
    axes.set_ylabel(f"{quantity}, {last.unit}")
    axes.set_title(
        "\n".join(textwrap.wrap(f"{last.id}, tier {tier}: {last.claim}", _TITLE)), fontsize="small"
    )


def _alarm(axes: Axes, night: Night, judgement: Judgement) -> None:
    kind = _kind(judgement)
    looks = _ALARM | {"marker": _MARKS[kind]}
    if judgement.claim.ran:
        axes.plot(night.date, judgement.claim.ours, **looks)  # type: ignore[arg-type]
    else:
        # There is no value: at the foot of the panel.
        axes.plot(night.date, 0.05, transform=axes.get_xaxis_transform(), **looks)  # type: ignore[arg-type]


def _kind(judgement: Judgement) -> Kind:
    kinds = {alarm.kind for alarm in judgement.alarms}
    return next(kind for kind in _MARKS if kind in kinds)


def _legend(nights: Sequence[Night], guarded: Iterable[dict[int, Judgement]]) -> list[Artist]:
    judgements = [judgement for own in guarded for judgement in own.values()]
    handles: list[Artist] = [Line2D([], [], **_OURS, label="ours, 95 %")]
    if any(judgement.claim.paper is not None for judgement in judgements):
        handles.append(Line2D([], [], **_PAPER, label="paper"))
    if any(judgement.claim.allowed is not None for judgement in judgements):
        handles.append(Patch(**_ALLOWED, label="allowed size"))
    if any(judgement.claim.noise is not None for judgement in judgements):
        handles.append(style.noise_patch())
    kinds = {_kind(judgement) for judgement in judgements if judgement.alarms}
    handles += [
        Line2D([], [], **_ALARM, marker=mark, label=f"alarm: {kind}")
        for kind, mark in _MARKS.items()
        if kind in kinds
    ]
    tiers = {judgement.claim.tier for judgement in judgements}
    if any(gate.changed(b, a, tier) for a, b in pairwise(nights) for tier in tiers):
        handles.append(Line2D([], [], **_CHANGE, label="other engine, model or machine"))
    return handles


def main() -> int:
    """Draw the history named on the command line; return the exit code."""
    history, png = map(Path, command.arguments("figures.trend", str(__doc__), "HISTORY", "OUT.png"))
    try:
        nights = gate.read_history(history)
        if not nights:
            raise HarnessError(f"{history}: no such history; `harness gate --append` begins one")
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    style.save(draw(nights), png, png.with_suffix(".pdf"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
