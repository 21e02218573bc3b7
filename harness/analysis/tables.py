"""``cells.csv``: one row a cell, the interface to figures and to other programs."""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from harness.analysis import costmodel
from harness.errors import HarnessError
from harness.measure.records import REQUESTS, SUMMARY, read_provenance, read_summary

# Column -> key in summary.json.
_KEYS = {
    "tier": "tier",
    "engine": "engine",
    "policy": "policy",
    "workload": "workload",
    "mode": "mode",
    "batch_size": "batch_size",
    "request_rate": "request_rate",
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
    # Tells cells apart that differ in what has no column.
    "cell": "cell",
    "repeat": "repeat",
}
# The same, of those that came later.
_LATER_KEYS = {"disturbed": "disturbed", "unreachable": "unreachable"}
# What every summary has.
_NEEDED = ("tier", "engine", "policy", "workload", "mode", "batch_size", "seed", "scale", "valid")
# Where a cell's numbers come from.
ORIGIN = ["engine_version", "patches_sha256", "model_sha256", "machine", "measured_at", "git"]
# Other programs read these by name or by place: only append.
COLUMNS = [*_KEYS, *ORIGIN, "folder", *_LATER_KEYS]
# Not a number where they do not apply, whole where they do.
_WHOLE = ["batch_size", "cache_tokens", "seed", "requests", "repeat"]
_ORDER = ["tier", "workload", "mode", "batch_size", "request_rate", "cache_tokens", "seed"]


def write_cells(folders: Sequence[Path], path: Path) -> None:
    """Write one row for each cell, ordered by what was measured.

    TTFT is from when a request was due where that is not when it was sent (open loop), so that
    what a late client or a slow server kept waiting counts; else from sending.

    Cells of tier replay, which have no clock, get a mean TTFT predicted from their hit rate where
    the paper has points to fit it on (``costmodel``): at its size and batch size 1.

    ``folder`` is where the cell's own files are, beside those of all others.

    Args:
        folders: The cells' folders, or folders of those.
        path: The CSV file.

    Raises:
        HarnessError: if a folder has no cell in it, a damaged one, or one of another version of
            this project; or if cells of one workload and seed got other requests than each other.

    """
    rows = []
    asked: dict[tuple[str, str, int], tuple[str, Path]] = {}
    for folder in folders:
        for cell in _cells(folder):
            summary, provenance = read_summary(cell), read_provenance(cell)
            for key in _NEEDED:
                if not isinstance(summary, dict) or key not in summary:
                    raise _damaged(cell, f"its {SUMMARY} has no {key}")
            if summary["valid"] and not (cell / REQUESTS).is_file():
                raise _damaged(cell, f"it has no {REQUESTS}")
            _check_same_requests(asked, cell, summary, provenance)
            where = {"folder": str(cell.relative_to(folder.parent))}
            rows.append(_row(summary) | _origin(cell, provenance) | where)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table = table.astype(dict.fromkeys(_WHOLE, "Int64") | {"request_rate": "float64"})
    table = table.sort_values([*_ORDER, "engine", "policy", "cell"])
    partial = path.with_name(f".{path.name}.partial")
    table.to_csv(partial, index=False)
    os.replace(partial, path)


def _cells(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"*/{SUMMARY}")) or [folder]


def _damaged(cell: Path, what: str) -> HarnessError:
    return HarnessError(
        f"{cell}: not a whole cell: {what}. Remove the folder of its group, in cells/, and run the "
        "same command again"
    )


def _check_same_requests(
    asked: dict[tuple[str, str, int], tuple[str, Path]],
    cell: Path,
    summary: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    """Refuse a cell whose workload file is not that of the cells before, and note it."""
    try:
        sha256 = str(provenance["workload"]["sha256"])
        key = str(summary["tier"]), str(summary["workload"]), int(summary["seed"])
    except (KeyError, TypeError):
        return
    before, first = asked.setdefault(key, (sha256, cell))
    if before != sha256:
        raise HarnessError(
            f"{cell} and {first} got different requests: their workload files, of {key[1]}, seed "
            f"{key[2]}, have sha256 {sha256[:12]} and {before[:12]}. Remove the folder of the "
            "older one's group, in cells/, and run the same command again"
        )


def _row(summary: Mapping[str, Any]) -> dict[str, Any]:
    keys = _KEYS | _LATER_KEYS
    if summary["mode"] == "open-loop":
        keys |= {
            column: key.replace("_ttft_ms", "_ttft_scheduled_ms")
            for column, key in _KEYS.items()
            if key.endswith("_ttft_ms")
        }
    row = {column: summary.get(key) for column, key in keys.items()}
    is_papers_load = summary["mode"] == "batch" and summary["batch_size"] == 1
    at_papers_size = summary["scale"] == 1 and is_papers_load
    if summary["tier"] == "replay" and summary["valid"] and at_papers_size:
        model = costmodel.of_paper(summary["workload"])
        if model is not None:
            row |= {"ttft_mean_ms": model.ttft_ms(summary["hit_rate"]), "ttft_kind": "predicted"}
    return row


def _origin(folder: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a cell comes from; nothing of one that was not run."""
    if not provenance:
        return {}
    try:
        engine, hardware = provenance["engine"], provenance["hardware"]
        binaries = engine.get("binaries")
        cpu = f"{hardware['cpu'] or 'unknown CPU'}, {hardware['cores']} cores"
        measured = datetime.fromtimestamp(provenance["clock"]["wall_ns"] / 1e9, tz=UTC)
        return {
            "engine_version": engine["version"]
            + (f" with {binaries}'s binaries" if binaries else ""),
            "patches_sha256": engine["patches_sha256"],
            "model_sha256": provenance["model"]["sha256"],
            "machine": "; ".join([cpu, *hardware["gpus"]]),
            "measured_at": measured.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "git": provenance["git"],
        }
    except KeyError as error:
        raise HarnessError(
            f"{folder}: its provenance has no {error}: it was measured with another version of "
            "this project. Remove the folder and run the same command again"
        ) from None


def read_cells(path: Path) -> pd.DataFrame:
    """Read a table that ``write_cells`` wrote.

    ``batch_size`` and ``request_rate`` are not a number where they do not apply. Of a table written
    before there were the last columns, they are empty.

    Raises:
        HarnessError: if it is missing, damaged or has other columns.

    """
    try:
        table = pd.read_csv(path)
    except OSError as error:
        raise HarnessError(f"{path}: no table of cells: {error.strerror}") from None
    except ValueError as error:
        raise HarnessError(
            f"{path}: no table of cells: {error}. Remove it and run the same command again"
        ) from None
    missing = len(COLUMNS) - len(table.columns)
    if missing not in range(len(_LATER_KEYS) + 1) or list(table) != COLUMNS[: len(table.columns)]:
        raise HarnessError(f"{path}: columns {list(table.columns)}, not {COLUMNS}")
    return table.reindex(columns=COLUMNS)
