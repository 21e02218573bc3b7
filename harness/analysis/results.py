"""What figures and claims are drawn from: a config, the tables of its results, its cells."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from harness import config as configs
from harness.analysis import tables
from harness.cell import Load, Mode, Tier
from harness.config import Config
from harness.engines.registry import ENGINES
from harness.errors import HarnessError
from harness.measure.records import NOT_RUN, REQUESTS, TELEMETRY

# Column of ``cells`` -> what it tells of a cell's origin.
_ORIGINS = (
    ("engine_version", "engine versions"),
    ("patches_sha256", "patches"),
    ("model_sha256", "models"),
    ("machine", "machines"),
)


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

    def on(self, *packages: str) -> "Results":
        """Return the same with the cells of some packages' engines only (``Kind.package``)."""
        package = self.cells["engine"].map(lambda engine: ENGINES[engine].package)
        return replace(self, cells=self.cells[package.isin(packages)])

    @property
    def packages(self) -> list[str]:
        """The packages that there are cells of."""
        return list(dict.fromkeys(ENGINES[engine].package for engine in self.cells["engine"]))

    def of(self, tier: Tier, workload: str, mode: Mode = "batch") -> pd.DataFrame:
        """Return the cells of a workload, each once, to be held against each other.

        Returns:
            Rows of ``cells``, but none that repeats another, with ``x``: thousand tokens at the
            paper's scale.

        Raises:
            HarnessError: if they are not of one origin.

        """
        cells = self._of(tier, workload, mode)
        self._check_origin(cells, tier, workload)
        return cells[cells["repeat"] == 0]

    def cells_of(self, tier: Tier, workloads: Sequence[str], modes: Sequence[Mode]) -> pd.DataFrame:
        """Return the cells of several workloads and modes, each once; raises as ``of``."""
        return pd.concat([self.of(tier, name, mode) for name in workloads for mode in modes])

    def again(self, tier: Tier, workload: str, mode: Mode) -> pd.DataFrame:
        """Return the cells that repeat one of ``of``'s; raises as that."""
        cells = self._of(tier, workload, mode)
        self._check_origin(cells, tier, workload)
        return cells[cells["repeat"] > 0]

    def _of(self, tier: Tier, workload: str, mode: Mode) -> pd.DataFrame:
        cells = self.cells
        chosen = cells[
            (cells["tier"] == tier) & (cells["workload"] == workload) & (cells["mode"] == mode)
        ]
        # A figure's workload need not be one of every config's.
        scale = 1.0 if chosen.empty else self.config.scale(tier, workload)
        return chosen.assign(x=chosen["cache_tokens"] / scale / 1000)

    def _check_origin(self, cells: pd.DataFrame, tier: Tier, workload: str) -> None:
        """Refuse cells whose difference need not be their policy's."""
        # Without a clock, the machine makes no difference.
        columns = dict(_ORIGINS) if tier != "replay" else dict(_ORIGINS[:-1])
        for engine, own in cells[cells["valid"]].groupby("engine"):
            for column, what in columns.items():
                found = own.groupby(own[column].astype(object).fillna("none"))["folder"].first()
                if len(found) > 1:
                    each = "; ".join(f"{value}, as {folder}" for value, folder in found.items())
                    raise HarnessError(
                        f"{self.folder}/cells.csv: the {tier} cells of {workload} on {engine} are "
                        f"of different {what} and cannot be compared: {each}. Remove the folders "
                        "of those not wanted from cells/ and run the same command again"
                    )

    def telemetry(self, cell: "pd.Series[Any]") -> pd.DataFrame:
        """Return the policy's state after each batch of a cell; raises as ``requests``."""
        return self.read_table(cell, TELEMETRY)

    def cell(self, name: str) -> "pd.Series[Any]":
        """Return the row of ``cells`` of the cell of a name."""
        return self.cells[self.cells["cell"] == name].iloc[0]

    def folder_of(self, cell: "pd.Series[Any]") -> Path:
        """Return the folder of a cell, a row of ``cells``."""
        return self.folder / "cells" / str(cell["folder"])

    def read_table(self, cell: "pd.Series[Any]", name: str) -> pd.DataFrame:
        """Return a table of a cell, as it is in its folder.

        Raises:
            HarnessError: if the file is missing or damaged.

        """
        path = self.folder_of(cell) / name
        try:
            return pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise HarnessError(
                f"{path}: not readable: {error}. Remove the folder of its group, in "
                f"{self.folder}/cells, and run the same command again"
            ) from None

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
        """Return the requests of a cell, but those that warm up; a row of ``cells``.

        Returns:
            ``requests.parquet`` (``harness.measure.records``), ordered by ``request``, with
            ``ttft_ms``: from when a request was due in an open loop, else from sending; not a
            number without a clock.

        Raises:
            HarnessError: if the file is missing or damaged.

        """
        requests = self.read_table(cell, REQUESTS)
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
        raise HarnessError(
            f"{folder}/policies.csv: not readable: {error}. Remove it and run the same command "
            "again"
        ) from None
    if missing := {"workload", "policy", "cache_tokens", "hit_rate"} - set(policies.columns):
        raise HarnessError(
            f"{folder}/policies.csv: no table of policies: it has no {min(missing)}. Remove it and "
            "run the same command again"
        )
    cells = tables.read_cells(folder / "cells.csv")
    return Results(configs.load(config), folder, cells, policies)


def of_patched(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells that are of a patched engine."""
    return cells[cells["engine"].map(lambda engine: ENGINES[engine].is_patched).astype(bool)]


def not_run(cells: pd.DataFrame) -> str | None:
    """Return why none of the cells was run; None if some were."""
    # Read from a table without any reason, the column is of numbers.
    reasons = cells["invalid_reason"].astype(object).fillna("")
    if cells.empty or not reasons.str.startswith(NOT_RUN).all():
        return None
    return str(reasons.iloc[0])
