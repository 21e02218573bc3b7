"""Results to keep: what figures, claims and the report read of a run, and no more.

All of them can then be drawn on a machine that ran nothing: ``python -m figures all``, ``harness
judge`` and ``python -m figures.report`` take such a folder for a run's results.
"""

import os
import shutil
from pathlib import Path

import pandas as pd

from harness.analysis import results
from harness.errors import HarnessError
from harness.measure.records import REQUESTS, TELEMETRY

_TABLES = ("cells.csv", "policies.csv", "policies.md")
# Policies whose requests are compared one by one, and whose state is drawn.
_COMPARED, _DRAWN = ("lru", "arc"), ("arc",)
_NOT_READ = ["first_byte_ns", "output_tokens", "queried_blocks", "cached_blocks", "error"]
_STATE = ["request", "t1", "p"]


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
        if cell["policy"] in _COMPARED:
            requests = found.read_table(cell, REQUESTS).drop(columns=_NOT_READ)
            _write(requests, to / REQUESTS)
        is_drawn = cell["mode"] == "open-loop" or (
            cell["tier"] == "replay" and cell["mode"] == "batch" and cell["batch_size"] == 1
        )
        if cell["policy"] in _DRAWN and is_drawn:
            telemetry = found.telemetry(cell)
            if missing := [name for name in _STATE if name not in telemetry]:
                raise HarnessError(
                    f"{found.folder_of(cell) / TELEMETRY}: has no {' and no '.join(missing)}, as "
                    "cells on servers had not before: measure it again"
                )
            _write(telemetry[_STATE], to / TELEMETRY)
    shutil.rmtree(reference, ignore_errors=True)
    os.replace(partial, reference)


def _write(table: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path, compression="zstd", index=False)
