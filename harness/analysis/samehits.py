"""Whether the same cells hit the same in every request on different versions of the engine."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harness.analysis import tables
from harness.errors import HarnessError
from harness.measure.records import REQUESTS

_HITS = ["cached_tokens", "cached_blocks"]


@dataclass(frozen=True)
class Agreement:
    """How two runs agree: what was compared, and the cells that differ, a line each."""

    cells: int
    requests: int
    versions: tuple[str, str]
    differences: tuple[str, ...]


def compare(first: Path, second: Path) -> Agreement:
    """Compare what was cached of each request of the cells that two runs have in common.

    Args:
        first: Folder of a run's results.
        second: Another's, of the same cells.

    Raises:
        HarnessError: if they have no valid cell in common, or a file is missing or damaged.

    """
    one, other = (_valid(folder) for folder in (first, second))
    common = one.index.intersection(other.index)
    if common.empty:
        raise HarnessError(f"{first} and {second} have no valid cell in common: run both")
    requests = 0
    differences: list[str] = []
    for cell in common:
        hits, others = (
            _hits(folder / "cells" / str(cells.loc[cell, "folder"]))
            for folder, cells in ((first, one), (second, other))
        )
        requests += len(hits)
        differences += _differences(cell, hits, others)
    versions = tuple(
        ", ".join(sorted(cells.loc[common, "engine_version"].dropna().unique()))
        for cells in (one, other)
    )
    return Agreement(len(common), requests, (versions[0], versions[1]), tuple(differences))


def _valid(folder: Path) -> pd.DataFrame:
    cells = tables.read_cells(folder / "cells.csv")
    return cells[cells["valid"]].set_index("cell")


def _hits(folder: Path) -> pd.DataFrame:
    path = folder / REQUESTS
    try:
        return pd.read_parquet(path, columns=["request", *_HITS]).set_index("request").sort_index()
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path}: not readable: {error}") from None


def _differences(cell: str, hits: pd.DataFrame, others: pd.DataFrame) -> Iterator[str]:
    if not hits.index.equals(others.index):
        yield f"{cell}: {len(hits)} and {len(others)} requests, which are not the same"
        return
    # A server does not count blocks.
    differ = ((hits != others) & ~(hits.isna() & others.isna())).any(axis="columns")
    if differ.any():
        request = hits.index[differ][0]
        values = ", ".join(
            f"{name} {hits.loc[request, name]} and {others.loc[request, name]}" for name in _HITS
        )
        yield (
            f"{cell}: {differ.sum()} of {len(hits)} requests differ, the first is request "
            f"{request}: {values}"
        )
