"""A made-up map, and traffic to put on it; nothing in them was measured."""

from typing import Any

import pandas as pd

from harness.analysis.maps import COLUMNS
from harness.analysis.traffic import Traffic

# Kind, size, workload, given, measure, holds, cache, share, ARC, best, its name.
_ROWS = [
    ("documents", "reduced", "skew-00", 0.0, 0.2, 1e5, 10_000, 0.1, -2.0, -1.0, "s3fifo"),
    ("documents", "reduced", "skew-00", 0.0, 0.2, 1e5, 40_000, 0.4, 0.0, 1.0, "alrfu"),
    ("documents", "reduced", "skew-10", 1.0, 0.6, 1e5, 10_000, 0.1, 8.0, 9.0, "alrfu"),
    ("documents", "reduced", "skew-10", 1.0, 0.6, 1e5, 40_000, 0.4, 2.0, 3.0, "arc"),
    ("documents", "full", "skew-10-full", 1.0, 0.6, 4e5, 80_000, 0.2, 6.0, 6.0, "arc"),
    ("documents", "trace", "mooncake", None, 0.4, 1e6, 200_000, 0.2, 1.0, 4.0, "alrfu"),
    ("conversations", "reduced", "think-15", 15.0, 10.0, 8e3, 4_000, 0.5, -4.0, -1.0, "alrfu"),
    ("conversations", "reduced", "think-15", 15.0, 10.0, 8e3, 16_000, 2.0, 0.0, 0.5, "alrfu"),
    ("conversations", "reduced", "think-240", 240.0, 160.0, 8e4, 40_000, 0.5, -2.0, 1.0, "alrfu"),
    ("conversations", "reduced", "think-240", 240.0, 160.0, 8e4, 160_000, 2.0, 2.0, 2.0, "arc"),
]


def table() -> pd.DataFrame:
    """Return a map with two workloads of each kind, one at full size and a trace."""
    return pd.DataFrame(_ROWS, columns=list(COLUMNS))


def traffic(**changes: Any) -> Traffic:
    """Return requests without sessions, as skewed as halfway between the map's documents."""
    return Traffic(
        **{
            "name": "mine",
            "block_size": 16,
            "requests": 400,
            "prompt_tokens": 40_000,
            "sessions": None,
            "span_s": None,
            "lookups": 2400,
            "distinct_blocks": 9,
            "seen_before": 0.9,
            "used_once": 0.5,
            "top_tenth": 0.4,
            "live_sessions": None,
            "live_tokens": None,
            "longest_tokens": 112,
            "working_set_tokens": 128_000,
            "distances": [],
            "uses": [(1.0, 1.0)],
            "turns": [],
            **changes,
        }
    )


CHATS = {"sessions": 100, "live_sessions": 40.0, "live_tokens": 20_000.0, "turns": [(4, 100)]}
