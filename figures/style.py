"""What all figures share: colours, markers, names, size, and how they are saved."""

import os
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # no display is needed, nor asked for

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

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

_DPI = 200


def use() -> None:
    """Set the common style for the figures to come."""
    sns.set_theme(style="whitegrid", context="paper", font_scale=1.1)
    plt.rcParams["pdf.fonttype"] = 42  # text stays text
    plt.rcParams["axes.titlelocation"] = "left"
    plt.rcParams["axes.titleweight"] = "bold"


def save(figure: Figure, png: Path, pdf: Path) -> None:
    """Write a figure as PNG and PDF, each under a temporary name, renamed when whole."""
    for path, options in ((png, {"dpi": _DPI}), (pdf, {"metadata": {"CreationDate": None}})):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".partial-{path.name}")
        figure.savefig(partial, bbox_inches="tight", **options)
        os.replace(partial, path)
    plt.close(figure)
