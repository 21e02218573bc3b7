"""``cells.csv``: one row a cell, the interface to figures and to other programs."""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from harness.cell import read_summary
from harness.errors import HarnessError

# Column -> key in summary.json.
_COLUMNS = {
    "tier": "tier",
    "engine": "engine",
    "policy": "policy",
    "workload": "workload",
    "mode": "mode",
    "batch_size": "batch_size",
    "request_rate": None,
    "cache_tokens": "cache_tokens",
    "seed": "seed",
    "requests": "requests",
    "hit_rate": "hit_rate",
    "hit_rate_per_block": "hit_rate_per_block",
    "ttft_mean_ms": "mean_ttft_ms",
    "ttft_p50_ms": "median_ttft_ms",
    "ttft_p90_ms": "p90_ttft_ms",
    "ttft_p99_ms": "p99_ttft_ms",
    "ttft_kind": "ttft_kind",
    "valid": "valid",
    "invalid_reason": "invalid_reason",
}


def write_cells(folders: Sequence[Path], path: Path) -> None:
    """Write one row for each measured cell, ordered by what was measured.

    Args:
        folders: The cells' folders.
        path: The CSV file.

    Raises:
        HarnessError: if a folder is not a measured cell.

    """
    rows = [
        {column: summary.get(key) if key else None for column, key in _COLUMNS.items()}
        for summary in map(read_summary, folders)
    ]
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    table = table.sort_values(
        ["workload", "mode", "batch_size", "cache_tokens", "seed", "engine", "policy"]
    )
    partial = path.with_name(f".{path.name}.partial")
    table.to_csv(partial, index=False)
    os.replace(partial, path)


def read_cells(path: Path) -> pd.DataFrame:
    """Read a table that ``write_cells`` wrote.

    Raises:
        HarnessError: if it is missing or has other columns.

    """
    try:
        table = pd.read_csv(path)
    except OSError as error:
        raise HarnessError(f"{path}: no table of cells: {error.strerror}") from None
    if list(table.columns) != list(_COLUMNS):
        raise HarnessError(f"{path}: columns {list(table.columns)}, not {list(_COLUMNS)}")
    return table
