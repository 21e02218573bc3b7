"""What all figures share: colours, markers, names, size, and how they are saved."""

import os
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no display is needed, nor asked for

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures import saved
from harness.analysis.stats import Interval
from harness.policies import POLICIES, Policy, split

COLORS, MARKERS, LABELS = (
    {name: getattr(policy, look) for name, policy in POLICIES.items()}
    for look in ("color", "marker", "label")
)
# Of policies that tables have and this project does not name, one after the other.
_OTHER_COLORS = ("#ca9161", "#000000", "#ece133", "#fbafe4", "#5e3c99", "#7fbf7b", "#8c510a")
_OTHER_MARKERS = ("X", "*", "<", ">", "h", "d", "p")
PAPER_POLICIES = tuple(name for name, policy in POLICIES.items() if policy.is_papers)
HIT_RATE = "hit rate\n(cached / queried prompt tokens)"
# Of what belongs to one batch size, out of 1.
_GROUP_WIDTH = 0.8

# At the size of a figure's face.
_CHARACTERS_AN_INCH = 15


def use() -> None:
    """Set the common style for the figures to come."""
    sns.set_theme(style="whitegrid", context="paper", font_scale=1.1)
    plt.rcParams["pdf.fonttype"] = 42  # text stays text
    plt.rcParams["axes.titlelocation"] = "left"
    plt.rcParams["axes.titleweight"] = "bold"


def face(figure: Figure, *sentences: str) -> None:
    """Say on the figure what it shows: tier, workload, size, seeds, what is missing."""
    width = int(_CHARACTERS_AN_INCH * figure.get_figwidth())
    figure.suptitle(_wrapped(sentences, width), fontsize="small", x=0.01, ha="left")


def foot(figure: Figure, text: str) -> None:
    """Say below a figure where it comes from."""
    figure.text(0.01, -0.01, text, fontsize="xx-small", color="dimgray", va="top")


def caption(figure: Figure) -> str:
    """Return what a figure says of itself, on one line."""
    return figure.get_suptitle().replace("\n", " ")


def _wrapped(sentences: Iterable[str], width: int) -> str:
    # Between words only, so that ``caption`` can undo it.
    lines = (
        textwrap.wrap(said, width, break_long_words=False, break_on_hyphens=False)
        for said in sentences
    )
    return "\n".join(chain.from_iterable(lines))


def looks(policies: Iterable[str]) -> dict[str, Policy]:
    """Return how to name and draw policies, in the order of a legend, those without a name last,
    variants of one with a name among them.
    """
    found = set(policies)
    unnamed = sorted(found - POLICIES.keys(), key=_numbered)
    return {name: policy for name, policy in POLICIES.items() if name in found} | {
        name: Policy(_label(name), color, marker)
        for name, color, marker in zip(
            unnamed, cycle(_OTHER_COLORS), cycle(_OTHER_MARKERS), strict=False
        )
    }


def _numbered(name: str) -> tuple[str, str, tuple[float, ...]]:
    policy, constant, values = split(name)
    return policy, constant or "", values


def _label(name: str) -> str:
    policy, _, change = name.partition(":")
    return f"{POLICIES[policy].label}, {change}" if change and policy in POLICIES else name


def ours(look: Policy) -> Line2D:
    """Return a legend's entry for our line of a policy."""
    return Line2D([], [], color=look.color, marker=look.marker, label=look.label)


def papers() -> Line2D:
    """Return a legend's entry for the paper's points."""
    return Line2D([], [], color="grey", marker="o", mfc="white", linestyle=":", label="paper")


def paper_lines(
    axes: Axes, published: pd.DataFrame, column: str, policies: Collection[str]
) -> None:
    """Draw the paper's points of policies that are drawn of ours, too, against cache size in
    thousand tokens; see ``paper.comparable``.
    """
    for policy in (name for name in PAPER_POLICIES if name in policies):
        points = published[published["policy"] == policy]
        axes.plot(
            points["cache_tokens"] / 1000,
            points[column],
            color=COLORS[policy],
            marker=MARKERS[policy],
            markerfacecolor="white",
            linestyle=":",
            zorder=2,
        )


def noise(axes: Axes, x: Sequence[float], base: Sequence[float], percent: float) -> None:
    """Shade what differs from a line by no more than noise (``noise.band``)."""
    low, high = ([value * (1 + sign * percent / 100) for value in base] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=COLORS["lru"], alpha=0.25, linewidth=0, zorder=1)


def noise_patch() -> Patch:
    """Return a legend's entry for ``noise``."""
    return Patch(color=COLORS["lru"], alpha=0.25, linewidth=0, label="noise: equal cells, 95 %")


def whiskers(intervals: Sequence[Interval]) -> list[list[float]]:
    """Return how far whiskers go down and up, as matplotlib takes it."""
    return [
        [interval.value - interval.low for interval in intervals],
        [interval.high - interval.value for interval in intervals],
    ]


def places(groups: int, things: int) -> list[list[float]]:
    """Return where to put things side by side in groups around 0, 1, ...: a list a thing."""
    width = _GROUP_WIDTH / max(things, 1)
    return [
        [group + width * (thing - (things - 1) / 2) for group in range(groups)]
        for thing in range(things)
    ]


def bars(
    axes: Axes,
    sizes: list[float],
    heights: Mapping[str, Sequence[Interval]],
    published: pd.DataFrame,
) -> None:
    """Draw hit rates against batch size, with whiskers and the paper's points.

    Args:
        axes: Where.
        sizes: The batch sizes.
        heights: Of each policy, one a batch size.
        published: The paper's: ``policy``, ``x``, ``value``.

    """
    handles: list[BarContainer | Line2D] = []
    for at, (policy, intervals) in zip(
        places(len(sizes), len(heights)), heights.items(), strict=True
    ):
        drawn = axes.bar(
            at,
            [interval.value for interval in intervals],
            _GROUP_WIDTH / len(heights),
            yerr=whiskers(intervals),
            color=COLORS[policy],
            capsize=3,
            label=LABELS[policy],
        )
        axes.bar_label(
            drawn, fmt="%.3f", label_type="center", fontsize="x-small", color="white", rotation=90
        )
        handles += [drawn, *paper_points(axes, at, sizes, published, policy)]
    batch_sizes(axes, sizes)
    axes.set_ylabel(HIT_RATE)
    # Room for the legend.
    from_zero(axes, 1.3)
    axes.legend(handles=handles, loc="upper center", ncols=len(heights), fontsize="small")


def paper_points(
    axes: Axes, at: list[float], sizes: list[float], published: pd.DataFrame, policy: str
) -> list[Line2D]:
    """Draw the paper's points of a policy at their batch sizes; return the legend's entries."""
    points = published[published["policy"] == policy].set_index("x")["value"]
    if points.empty:
        return []
    # Between points of ours and on bars, black tells them apart.
    looks: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": "black", "zorder": 4}
    return axes.plot(
        at,
        points.reindex(sizes),
        marker=MARKERS[policy],
        linestyle="",
        label=f"paper, {LABELS[policy]}",
        **looks,
    )


def batch_sizes(axes: Axes, sizes: list[float]) -> None:
    """Name the groups of things on the x axis."""
    axes.set_xticks(range(len(sizes)), [f"{size:.0f}" for size in sizes])
    axes.set(xlabel="batch size", xlim=(-0.6, len(sizes) - 0.4))
    axes.grid(visible=False, axis="x")


def papers_policies(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of the paper's policies; if none is of one, all."""
    is_papers = cells["policy"].isin(PAPER_POLICIES)
    return cells[is_papers] if is_papers.any() else cells


def from_zero(axes: Axes, room: float) -> None:
    """Let the y axis begin at 0 and end so many times above what is drawn, if anything is."""
    if axes.dataLim.y1 > 0:
        axes.set_ylim(0, axes.dataLim.y1 * room)


def nothing(axes: Axes, why: str) -> None:
    """Say in a panel why nothing is drawn in it."""
    axes.set_yticks([])
    # Else they are another panel's, too.
    if len(axes.get_shared_x_axes().get_siblings(axes)) == 1:
        axes.set_xticks([])
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color="dimgray")


def not_run(title: str, reason: str) -> Figure:
    """Return a picture in a figure's place, whose cells were not run: it says why."""
    return _placeholder("not run", title, reason)


def not_drawn(title: str, reason: str) -> Figure:
    """Return a picture in the place of a figure that cannot be drawn: it says why."""
    return _placeholder("not drawn", title, f"not drawn: {reason}")


def _placeholder(outcome: saved.Outcome, title: str, reason: str) -> Figure:
    use()
    figure, axes = plt.subplots(figsize=(11, 4.6), layout="constrained")
    nothing(axes, outcome)
    face(figure, f"{title}.", reason)
    # For ``save``.
    figure.set_label(outcome)
    return figure


def save(figure: Figure, png: Path, pdf: Path) -> None:
    """Write a figure as PNG and PDF, each under a temporary name, renamed when whole.

    The PNG's description is the figure's caption, its warning is that it is none, if so;
    ``saved.read`` returns them.
    """
    _fix_legends(figure)
    said = {saved.CAPTION: caption(figure)}
    if outcome := str(figure.get_label()):
        said[saved.OUTCOME] = outcome
    for path, options in (
        (png, {"dpi": saved.DPI, "metadata": said}),
        (pdf, {"metadata": {"CreationDate": None}}),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".partial-{path.name}")
        figure.savefig(partial, bbox_inches="tight", **options)
        os.replace(partial, path)
    plt.close(figure)


def _fix_legends(figure: Figure) -> None:
    # Else they go to the edge of what is saved, onto the foot.
    figure.draw_without_rendering()
    for legend in figure.legends:
        place = legend.get_window_extent().transformed(figure.transFigure.inverted())
        legend.set_bbox_to_anchor(place, figure.transFigure)
    figure.set_layout_engine("none")
