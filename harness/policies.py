"""The eviction policies: what configs, cells, figures and tables call them.

A new one is a line here, and what makes an engine have it (``patches/``). A *variant* of one has
another value of a constant of its patch, and a name that says which: ``alrfu:MAX_GHOSTS=2``.
"""

from collections.abc import Sequence
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


def variant(policy: str, constant: str, value: Sequence[float]) -> str:
    """Return the name of a policy's variant; several values are those of a constant that is a
    tuple.
    """
    # Of its shortest spelling, 1e+16 would be two.
    spelled = (f"{one:.15g}".replace("e+", "e") for one in value)
    return f"{policy}:{constant}={'+'.join(spelled)}"


def split(name: str) -> tuple[str, str | None, tuple[float, ...]]:
    """Return a variant's policy, constant and values; of a policy itself no constant."""
    policy, _, change = name.partition(":")
    if not change:
        return policy, None, ()
    constant, _, values = change.partition("=")
    return policy, constant, tuple(float(value) for value in values.split("+"))
