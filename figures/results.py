"""What the figures are drawn from: a config and the tables of its results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness import config as configs
from harness.analysis import tables
from harness.cell import NOT_RUN, REQUESTS, TELEMETRY, Tier
from harness.config import Config
from harness.errors import HarnessError
from harness.load.spec import Load, Mode


@dataclass(frozen=True)
class Results:
    """The results of one run.

    ``cells`` is ``cells.csv`` (``harness.analysis.tables``), ``policies`` is ``policies.csv``
    (``harness.analysis.policies``), ``folder`` has the cells' own folders in ``cells/``.
    """

    config: Config
    folder: Path
    cells: pd.DataFrame
    policies: pd.DataFrame

    def of(self, tier: Tier, workload: str, mode: Mode = "batch") -> pd.DataFrame:
        """Return the cells of a workload, with ``x``: thousand tokens at the paper's scale."""
        cells = self.cells
        chosen = cells[
            (cells["tier"] == tier) & (cells["workload"] == workload) & (cells["mode"] == mode)
        ]
        # A figure's workload need not be one of every config's.
        scale = 1.0 if chosen.empty else self.config.scale(tier, workload)
        return chosen.assign(x=chosen["cache_tokens"] / scale / 1000)

    def telemetry(self, cell: "pd.Series[Any]") -> pd.DataFrame:
        """Return the policy's state after each batch of a replay cell; a row of ``cells``."""
        group = self.folder / "cells" / f"replay-{cell['workload']}-s{cell['seed']}"
        (path,) = group.glob(
            f"{cell['workload']}-batch{cell['batch_size']:.0f}-{cell['cache_tokens']}"
            f"-s{cell['seed']}-{cell['engine']}-{cell['policy']}/{TELEMETRY}"
        )
        return pd.read_parquet(path)

    def load(self, cell: str) -> Load:
        """Return how a cell's requests were sent.

        Raises:
            HarnessError: if the config has no such cell.

        """
        try:
            return self.config.cells[cell].load
        except KeyError:
            raise HarnessError(
                f"{self.folder}/cells.csv: cell {cell} is none of config {self.config.name}'s"
            ) from None

    def requests(self, cell: "pd.Series[Any]") -> pd.DataFrame:
        """Return the requests of a cell with an engine, but those that warm up; a row of ``cells``.

        Returns:
            ``requests.parquet`` (``harness.measure.records``), ordered by ``request``, with
            ``ttft_ms``: from when a request was due in an open loop, else from sending.

        Raises:
            HarnessError: if the file is missing or damaged.

        """
        path = self.folder / "cells" / str(cell["cell"]) / REQUESTS
        try:
            requests = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise HarnessError(f"{path}: not readable: {error}") from None
        requests = requests[~requests["warm_up"]].sort_values("request", ignore_index=True)
        start = "scheduled_ns" if cell["mode"] == "open-loop" else "sent_ns"
        return requests.assign(ttft_ms=(requests["first_token_ns"] - requests[start]) / 1e6)


def read(config: Path, folder: Path) -> Results:
    """Read the results of a config's run.

    Raises:
        HarnessError: if a table is missing or damaged.

    """
    try:
        policies = pd.read_csv(folder / "policies.csv")
    except (OSError, ValueError) as error:
        raise HarnessError(f"{folder}/policies.csv: not readable: {error}") from None
    cells = tables.read_cells(folder / "cells.csv")
    return Results(configs.load(config), folder, cells, policies)


def not_run(cells: pd.DataFrame) -> str | None:
    """Return why none of the cells was run; None if some were."""
    # Read from a table without any reason, the column is of numbers.
    reasons = cells["invalid_reason"].astype(object).fillna("")
    if cells.empty or not reasons.str.startswith(NOT_RUN).all():
        return None
    return str(reasons.iloc[0])
