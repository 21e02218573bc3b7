"""The eviction policies: what configs, cells, figures and tables call them.

A new one is a line here, and what makes an engine have it (``patches/``).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """How a policy is named and drawn.

    Colours are of seaborn's colour-blind palette; the markers tell policies apart in grey, too.
    """

    label: str
    color: str
    marker: str
    is_papers: bool = False
    """Whether the paper measured it."""
    is_ablation: bool = False
    """Whether it is there to show what a part of another policy does, and is not for use."""


POLICIES = {
    "lru": Policy("LRU", "#949494", "o", is_papers=True),
    "dbl": Policy("DBL", "#de8f05", "s", is_papers=True),
    "arc": Policy("ARC", "#0173b2", "^", is_papers=True),
    "slru": Policy("SLRU", "#029e73", "D"),
    "s3fifo": Policy("S3-FIFO", "#cc78bc", "v"),
    "alrfu": Policy("ALRFU", "#d55e00", "P"),
    "arcleaf": Policy("ARC (leaves only)", "#56b4e9", "X", is_ablation=True),
}
