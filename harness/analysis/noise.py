"""Noise: what a number would differ by if the same machine measured it again.

It is estimated in two ways. **Engines**: each of a comparison's cells is an engine of its own, and
what each says by itself spreads about what they say together. **Runs**: the same comparison in
other runs on the same machine, kept in a table (``add``; the shipped one is
``reference/noise.csv``), differs by all that changes between runs.

One comparison has two or three engines and a few runs, and a variance of so few is no more than a
guess. So that of engines is pooled over all comparisons of a tier, workload, mode and batch size,
weighted by degrees of freedom, the run's own included; where the run's is larger by more than
chance, it counts alone. What runs vary by beyond that is pooled over all comparisons of a tier, of
single requests or of several together, weighted by how well each can show it, and added. Of hit
rates and an open loop's ratio of means, whose engines say nothing by themselves, the larger of the
two counts.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from harness.analysis.comparisons import Comparison, compare
from harness.analysis.results import Results
from harness.analysis.stats import Estimate
from harness.cell import Mode, Tier
from harness.errors import HarnessError

Quantity = Literal["hit_rate", "ttft", "own_cost"]
COLUMNS = [
    "run",
    "machine",
    "workload",
    "mode",
    "batch_size",
    "comparison",
    "seed",
    "quantity",
    "kind",
    "value",
]
# With fewer, a standard deviation is off by a factor of two as often as not.
_LEAST_DF = 2
# Asked of every comparison of every run, and then hardly ever by chance.
_NOISIER = 0.999
# Of percents; engines that agree to a thousandth have as much weight as can be.
_LEAST_VARIANCE = 1e-6
_SHIPPED = Path(__file__).parents[2] / "reference" / "noise.csv"
_ENGINE, _TOGETHER = "engine", "together"


@dataclass(frozen=True)
class _Pooled:
    variance: float
    df: float


class Noise:
    """The noise of a run.

    Args:
        comparisons: Of the run.
        history: A table as ``of_run`` gives it, of other runs; what it has of this run is left out.

    """

    def __init__(self, comparisons: Sequence[Comparison], history: pd.DataFrame) -> None:
        self._own = of_run(comparisons)
        self._online = [one for one in comparisons if one.online is not None and one.online.df]
        self._others = history[~history["run"].isin(self._own["run"].unique())]
        self._all = pd.concat([self._others, self._own]) if len(self._others) else self._own

    def of(self, comparison: Comparison, quantity: Quantity) -> Estimate:
        """Return a comparison's number with its standard error.

        The error is not a number where nothing was measured twice; that of a hit rate is then 0,
        since hits repeat exactly unless they are seen not to.
        """
        if comparison.tier == "replay":
            return Estimate(comparison.gain)
        if quantity == "hit_rate":
            return self._of_hits(comparison)
        size = comparison.batch_size
        if comparison.online is not None:
            value = comparison.online.value
            runs = self._between_runs(comparison, size, quantity, value)
            return _larger(value, self._between_turns(comparison, value), runs)
        assert comparison.effect is not None
        effect = comparison.effect
        if quantity == "ttft":
            value, of_engine = effect.value, 1 / len(effect.of_engines)
        else:
            # ARC's engine is held against the mean of LRU's.
            value, of_engine = effect.own_cost, 1 + 1 / len(effect.residuals)
        engines = self._between_engines(comparison, size, quantity, value, of_engine)
        if quantity == "ttft" and engines is not None and engines.df >= _LEAST_DF:
            return self._with_runs(engines, comparison)
        return _larger(value, engines, self._between_runs(comparison, size, quantity, value))

    def _of_hits(self, comparison: Comparison) -> Estimate:
        """Return a hit rate's; of all batch sizes where one's own is not known.

        What differs is what arrives first, by about as much at all sizes.
        """
        value, of_engine = comparison.gain, 1 + 1 / len(comparison.gains)
        for size in (comparison.batch_size, None):
            known = (
                self._between_engines(comparison, size, "hit_rate", value, of_engine),
                self._between_runs(comparison, size, "hit_rate", value),
            )
            found = _larger(value, *known)
            if found.df:
                return found
        seen = any(estimate is not None and estimate.error for estimate in known)
        return found if seen else Estimate(value)

    def _between_engines(
        self,
        comparison: Comparison,
        size: float | None,
        quantity: Quantity,
        value: float,
        of_engine: float,
    ) -> Estimate | None:
        """Return the error of what varies by ``of_engine`` times what an engine does."""
        own, others, known = (
            _pool(_alike(table, comparison, size, quantity, _ENGINE), ["run", "comparison", "seed"])
            for table in (self._own, self._others, self._all)
        )
        if known is None:
            return None
        if own is not None and others is not None and _is_noisier(own, others):
            known = own
        return Estimate(value, math.sqrt(known.variance * of_engine), known.df)

    def _with_runs(self, engines: Estimate, comparison: Comparison) -> Estimate:
        """Add what runs vary by beyond their engines; degrees of freedom as Satterthwaite's."""
        runs = self._beyond_engines(comparison)
        variance = engines.error**2 + runs.variance
        if not runs.variance:
            return engines
        parts = engines.error**4 / engines.df + runs.variance**2 / runs.df
        return engines._replace(error=math.sqrt(variance), df=variance**2 / parts)

    def _beyond_engines(self, comparison: Comparison) -> _Pooled:
        """Return the variance between runs that their engines' does not explain.

        It is the mean over comparisons of what each has, weighted by the inverse of the square of
        what its engines explain: where that is little, the rest shows (DerSimonian and Laird,
        *Controlled Clinical Trials* 7, 1986, of the same sum of two variances). Of several requests
        together it is another than of one: in which step a request is computed is chance then, and
        all engines' lines are laid through the same requests.
        """
        is_alike = (self._all["batch_size"] > 1) == ((comparison.batch_size or 1) > 1)
        table = self._all[_is_of(self._all, comparison.tier) & is_alike]
        table = table[table["quantity"] == "ttft"]
        total = weights = squares = 0.0
        for _, alike in table.groupby(["workload", "mode", "batch_size"]):
            engines = alike[alike["kind"] == _ENGINE]
            of_engine = _pool(engines, ["run", "comparison", "seed"])
            runs = _pool(alike[alike["kind"] == _TOGETHER], ["machine", "comparison", "seed"])
            if of_engine is None or runs is None:
                continue
            expected = of_engine.variance / engines.groupby(["run", "comparison"]).size().mean()
            weight = 1 / max(expected, _LEAST_VARIANCE) ** 2
            total += runs.df * weight * (runs.variance - expected)
            weights += runs.df * weight
            squares += runs.df * weight**2
        if not weights:
            return _Pooled(0.0, 0)
        return _Pooled(max(0.0, total / weights), weights**2 / squares)

    def _between_turns(self, comparison: Comparison, value: float) -> Estimate | None:
        """Return an open loop's, by its own equal cells, else by those at the noisiest rate."""
        if comparison.online is None or comparison.online.df:
            return comparison.online
        others = [one.online for one in self._online if one.workload == comparison.workload]
        noisiest = max(filter(None, others), key=lambda one: one.error, default=None)
        return noisiest and noisiest._replace(value=value)

    def _between_runs(
        self, comparison: Comparison, size: float | None, quantity: Quantity, value: float
    ) -> Estimate | None:
        alike = _alike(self._all, comparison, size, quantity, _TOGETHER)
        pooled = _pool(alike, ["machine", "comparison", "seed"])
        return None if pooled is None else Estimate(value, math.sqrt(pooled.variance), pooled.df)


def _larger(value: float, *known: Estimate | None) -> Estimate:
    """Return the one with the largest error of those that are known well enough, if any is."""
    found = [one for one in known if one is not None and one.df >= _LEAST_DF]
    return max(found, key=lambda one: one.error, default=Estimate(value, math.nan, 0))


def _alike(
    table: pd.DataFrame, comparison: Comparison, size: float | None, quantity: Quantity, kind: str
) -> pd.DataFrame:
    """Return what a table has of the same tier, workload and mode; of a batch size, if given."""
    chosen = (table["mode"] == comparison.mode) & (table["workload"] == comparison.workload)
    chosen &= (table["quantity"] == quantity) & (table["kind"] == kind)
    chosen &= _is_of(table, comparison.tier)
    if size is not None:
        chosen &= table["batch_size"] == size
    found: pd.DataFrame = table[chosen]
    return found


def _is_of(table: pd.DataFrame, tier: Tier) -> "pd.Series[bool]":
    # A comparison's name begins with its tier.
    return table["comparison"].astype(str).str.startswith(f"{tier} ")


def _is_noisier(own: _Pooled, others: _Pooled) -> bool:
    """Say whether a run is noisier than others by more than chance (F-test)."""
    if own.df < _LEAST_DF:
        return False
    return bool(own.variance > stats.f.ppf(_NOISIER, own.df, others.df) * others.variance)


def _pool(table: pd.DataFrame, keys: list[str]) -> _Pooled | None:
    """Return the variance within groups, pooled; None if no group has two values."""
    groups = table.groupby(keys)["value"]
    df = int((groups.size() - 1).sum())
    if not df:
        return None
    squares = float((groups.var(ddof=0) * groups.size()).sum())
    return _Pooled(squares / df, df)


def of_run(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Return a run's numbers, a row for each engine and one for all together, by ``COLUMNS``.

    ``value`` is in points of hit rate, else in percent of LRU's TTFT.
    """
    # Replays have no clock, and may be of another run.
    measured = [one for one in comparisons if one.tier != "replay"]
    if not measured:
        return pd.DataFrame(columns=COLUMNS)
    run = min(one.measured for one in measured)
    rows = []
    for one in measured:
        head = (run, one.machine, one.workload, one.mode, one.batch_size, one.name, one.seed)
        values: dict[str, tuple[Sequence[float], float]] = {"hit_rate": (one.gains, one.gain)}
        if one.online is not None:
            values["ttft"] = ((), one.online.value)
        if one.effect is not None:
            values["ttft"] = (one.effect.of_engines, one.effect.value)
            residuals = tuple(100 * np.expm1(one.effect.residuals))
            values["own_cost"] = (residuals, one.effect.own_cost)
        for quantity, (engines, together) in values.items():
            rows += [(*head, quantity, _ENGINE, value) for value in engines]
            rows.append((*head, quantity, _TOGETHER, together))
    return pd.DataFrame(rows, columns=COLUMNS)


def read(path: Path | None) -> pd.DataFrame:
    """Read the table of other runs; an empty one if there is none.

    Raises:
        HarnessError: if the file is damaged, or was named and is not there.

    """
    if path is None:
        return pd.DataFrame(columns=COLUMNS)
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path}: no table of noise: {error}") from None
    if list(table.columns) != COLUMNS:
        raise HarnessError(f"{path}: columns {list(table.columns)}, not {COLUMNS}")
    return table


def add(table: pd.DataFrame, comparisons: Sequence[Comparison], path: Path) -> None:
    """Write a table with a run's numbers added, or put in the place of those it has of that run."""
    own = of_run(comparisons)
    others = table[~table["run"].isin(own["run"].unique())]
    partial = path.with_name(f".{path.name}.partial")
    pd.concat([others, own] if len(others) else [own]).to_csv(partial, index=False)
    os.replace(partial, path)


def band(results: Results, tier: Tier, workload: str, mode: Mode) -> float | None:
    """Return within how many percent two equal cells' mean TTFT lie in 95 % of cases.

    Once corrected by the line for what they had to compute, cells of LRU differ by noise alone.
    All of a workload and mode are taken together, those of the shipped runs, too, if that is more;
    None if there are too few.
    """
    compared = compare(results, tier, workload, mode)
    if not compared:
        return None
    known = Noise(compared, shipped())
    of_tables = [_of_equal_cells(one, tier, workload, mode) for one in (known._own, known._all)]
    pooled = [one for one in of_tables if one is not None and one.df >= _LEAST_DF]
    if not pooled:
        return None
    widest = max(pooled, key=lambda one: one.variance)
    return Estimate(0, math.sqrt(2 * widest.variance), widest.df).interval().high


def shipped() -> pd.DataFrame:
    """Return the table of the shipped runs; an empty one where it is not there."""
    return read(_SHIPPED if _SHIPPED.exists() else None)


def _of_equal_cells(table: pd.DataFrame, tier: Tier, workload: str, mode: Mode) -> _Pooled | None:
    chosen = (table["quantity"] == "own_cost") & (table["kind"] == _ENGINE)
    chosen &= (table["workload"] == workload) & (table["mode"] == mode) & _is_of(table, tier)
    return _pool(table[chosen], ["run", "comparison", "seed"])
