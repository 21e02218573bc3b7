"""What all figures share: colours, markers, names, size, and how they are saved."""

import os
import textwrap
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # no display is needed, nor asked for

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# From seaborn's colour-blind palette; the markers tell the policies apart in grey, too.
_PALETTE = sns.color_palette("colorblind")
COLORS = {
    "lru": _PALETTE[7],
    "dbl": _PALETTE[1],
    "arc": _PALETTE[0],
    "slru": _PALETTE[2],
    "s3fifo": _PALETTE[4],
}
MARKERS = {"lru": "o", "dbl": "s", "arc": "^", "slru": "D", "s3fifo": "v"}
LABELS = {"lru": "LRU", "dbl": "DBL", "arc": "ARC", "slru": "SLRU", "s3fifo": "S3-FIFO"}
PAPER_POLICIES = ("lru", "dbl", "arc")

_DPI = 200
# At the size of a figure's face.
_CHARACTERS_AN_INCH = 13


def use() -> None:
    """Set the common style for the figures to come."""
    sns.set_theme(style="whitegrid", context="paper", font_scale=1.1)
    plt.rcParams["pdf.fonttype"] = 42  # text stays text
    plt.rcParams["axes.titlelocation"] = "left"
    plt.rcParams["axes.titleweight"] = "bold"


def face(figure: Figure, *sentences: str) -> None:
    """Say on the figure what it shows: tier, workload, size, seeds, what is missing."""
    width = int(_CHARACTERS_AN_INCH * figure.get_figwidth())
    lines = [line for said in sentences if said for line in textwrap.wrap(said, width)]
    figure.suptitle("\n".join(lines), fontsize="small", x=0.01, ha="left")


def ours(policy: str) -> Line2D:
    """Return a legend's entry for our line of a policy."""
    return Line2D([], [], color=COLORS[policy], marker=MARKERS[policy], label=LABELS[policy])


def papers() -> Line2D:
    """Return a legend's entry for the paper's points."""
    return Line2D([], [], color="grey", marker="o", mfc="white", linestyle=":", label="paper")


def paper_lines(axes: Axes, published: pd.DataFrame, column: str) -> None:
    """Draw the paper's points against cache size in thousand tokens; see ``paper.joined``."""
    for policy in PAPER_POLICIES:
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


def not_run(title: str, reason: str) -> Figure:
    """Return a figure that says why there is none."""
    use()
    figure = plt.figure(figsize=(10, 2.4))
    figure.text(0.02, 0.9, title, weight="bold", va="top")
    lines = textwrap.wrap(reason, 120, break_long_words=False, break_on_hyphens=False)
    figure.text(0.02, 0.74, "\n".join(lines), va="top")
    return figure


def save(figure: Figure, png: Path, pdf: Path) -> None:
    """Write a figure as PNG and PDF, each under a temporary name, renamed when whole."""
    for path, options in ((png, {"dpi": _DPI}), (pdf, {"metadata": {"CreationDate": None}})):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".partial-{path.name}")
        figure.savefig(partial, bbox_inches="tight", **options)
        os.replace(partial, path)
    plt.close(figure)
