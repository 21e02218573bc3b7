"""Results to keep: what figures, claims and the report read of a run, and no more.

All of them can then be drawn on a machine that ran nothing: ``python -m figures all``, ``harness
judge`` and ``python -m figures.report`` take such a folder for a run's results.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from harness.analysis import results
from harness.analysis.results import Results
from harness.errors import HarnessError
from harness.measure.records import REQUESTS, TELEMETRY
from workloads.docqa import DocQA
from workloads.sequence import Sequence

_TABLES = ("cells.csv", "policies.csv", "policies.md")
# Policies whose requests are compared one by one; and what is drawn of a policy's state.
_COMPARED = ("lru", "arc", "alrfu")
_STATE = {"arc": ["request", "t1", "p"], "alrfu": ["request", "half_life"]}
_NOT_READ = ["first_byte_ns", "output_tokens", "queried_blocks", "cached_blocks", "error"]


def write(config: Path, folder: Path, reference: Path) -> None:
    """Copy what is needed of a run's results, with its config as ``config.yaml``.

    Args:
        config: The config file.
        folder: Of the results.
        reference: Folder to write; one that is there is replaced.

    Raises:
        HarnessError: if something of the results is missing or damaged.

    """
    found = results.read(config, folder)
    partial = reference.with_name(f".{reference.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    is_map = found.config.map is not None
    for name in (*_TABLES, "map.csv") if is_map else _TABLES:
        try:
            shutil.copyfile(folder / name, partial / name)
        except OSError as error:
            raise HarnessError(f"{folder / name}: not readable: {error.strerror}") from None
    shutil.copyfile(config, partial / "config.yaml")
    # A map is drawn from its table alone.
    cells = found.cells[found.cells["valid"] & (not is_map)]
    for _, cell in cells.iterrows():
        to = partial / found.folder_of(cell).relative_to(folder)
        workload = found.config.workloads[cell["workload"]]
        # Without a clock, it is conversations that are told apart.
        is_read = cell["tier"] != "replay" or not isinstance(workload, DocQA)
        if cell["policy"] in _COMPARED and is_read:
            requests = found.read_table(cell, REQUESTS).drop(columns=_NOT_READ)
            _write(requests, to / REQUESTS)
        if _is_drawn(found, cell):
            telemetry, state = found.telemetry(cell), _STATE[cell["policy"]]
            if missing := [name for name in state if name not in telemetry]:
                raise HarnessError(
                    f"{found.folder_of(cell) / TELEMETRY}: has no {' and no '.join(missing)}, as "
                    "cells on servers had not before: measure it again"
                )
            _write(telemetry[state], to / TELEMETRY)
    shutil.rmtree(reference, ignore_errors=True)
    os.replace(partial, reference)


def _is_drawn(found: Results, cell: "pd.Series[Any]") -> bool:
    """Return whether a figure shows a cell's state over time, or a claim is on it."""
    of_one = cell["mode"] == "batch" and cell["batch_size"] == 1
    is_replay = bool(cell["tier"] == "replay" and of_one)
    if cell["policy"] == "alrfu":
        return is_replay and isinstance(found.config.workloads[cell["workload"]], Sequence)
    return bool(cell["policy"] == "arc" and (is_replay or cell["mode"] == "open-loop"))


def _write(table: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path, compression="zstd", index=False)
