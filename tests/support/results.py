"""Made-up results to draw figures from; nothing in them was measured."""

from pathlib import Path
from typing import Any

import pandas as pd

from figures.results import Results
from harness import config
from harness.analysis import tables

_POLICY_COLUMNS = ["workload", "cache_tokens", "kind", "policy", "hit_rate"]


def row(**changes: Any) -> dict[str, Any]:
    """Return a row of cells.csv: a valid replay of the paper's workload under LRU."""
    return {
        **dict.fromkeys(tables._COLUMNS),
        "tier": "replay",
        "engine": "replay",
        "policy": "lru",
        "workload": "docqa-quality",
        "mode": "batch",
        "batch_size": 1,
        "cache_tokens": 50_000,
        "seed": 42,
        "requests": 3072,
        "hit_rate": 0.2,
        "ttft_mean_ms": 400.0,
        "ttft_kind": "predicted",
        "valid": True,
        **changes,
    }


def results(root: Path, folder: Path, *rows: dict[str, Any]) -> Results:
    """Return results of the default config with these cells, and one point of the optimum."""
    optimum = ["docqa-quality", 50_000, "bound", "optimum", 0.45]
    return Results(
        config.load(root / "config" / "cpu.yaml"),
        folder,
        pd.DataFrame(rows),
        pd.DataFrame([optimum], columns=_POLICY_COLUMNS),
    )
