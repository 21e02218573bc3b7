"""A policy against another under one load, cache size and seed: what claims are judged by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis import costline
from harness.analysis.costline import Effect
from harness.analysis.results import Results, of_patched
from harness.analysis.stats import Estimate, blocks
from harness.cell import Mode, OpenLoop, Tier
from harness.engines.registry import ENGINES

_KEYS = ["tier", "workload", "mode", "batch_size", "request_rate", "x", "seed"]

_Array = npt.NDArray[np.float64]


class Pair(NamedTuple):
    """A policy, and what it is held against."""

    base: str
    policy: str


PAPERS = Pair("lru", "arc")


@dataclass(frozen=True)
class Comparison:
    """Cells that got the same requests: at least one of each of a pair, and their repeats.

    ``load`` is how the names of cells say it (``Load.label``), ``x`` the cache size in thousand
    tokens at the paper's scale, rounded; ``base`` and ``policy`` name the cells, ``hit_rates`` are
    theirs (fraction). ``gains`` is the policy's less the base's in points, against each cell of it.
    Of times, where there are any, ``effect`` is through hits (batches), ``online`` the ratio of
    means in percent less 100 with what equal cells say of its error (open loop).
    """

    package: str
    tier: Tier
    workload: str
    mode: Mode
    batch_size: float | None
    request_rate: float | None
    load: str
    x: float
    seed: int
    measured: str
    machine: str
    pair: Pair
    base: tuple[str, ...]
    policy: tuple[str, ...]
    hit_rates: tuple[float, float]
    gains: tuple[float, ...]
    effect: Effect | None
    online: Estimate | None

    @property
    def gain(self) -> float:
        """The policy's hit rate less the base's, in points."""
        return float(np.mean(self.gains))

    @property
    def name(self) -> str:
        """What names it in every run."""
        on = "" if self.package == "vllm" else f" on {self.package}"
        of = "" if self.pair == PAPERS else f", {self.pair.policy} less {self.pair.base}"
        return f"{self.tier} {self.workload} {self.mode}{self.load} {self.x:g}{on}{of}"


def compare(
    results: Results,
    tier: Tier | None = None,
    workload: str | None = None,
    mode: Mode | None = None,
    pair: Pair = PAPERS,
) -> list[Comparison]:
    """Return every comparison that valid cells of a run allow, but of a closed loop.

    There, when a request is sent depends on the answers before it, so that no two cells get the
    same traffic.

    Args:
        results: Of the run.
        tier: Of this one only, if given; and so on.
        workload: A workload.
        mode: A mode.
        pair: What is compared.

    Raises:
        HarnessError: if a cell's files are damaged, or cells of different origin would be compared.

    """
    found: list[Comparison] = []
    for package in results.packages:
        own = results.on(package)
        known = own.cells[own.cells["mode"] != "closed-loop"]
        keys = known[["tier", "workload", "mode"]].drop_duplicates()
        for key in keys.itertuples(index=False, name=None):
            wanted = (tier, workload, mode)
            if all(one in (None, has) for one, has in zip(wanted, key, strict=True)):
                found += _compared(own, pd.concat([own.of(*key), own.again(*key)]), pair)
    return found


def _compared(results: Results, cells: pd.DataFrame, pair: Pair) -> list[Comparison]:
    """Return the comparisons that cells of one package, workload and mode allow."""
    cells = of_patched(cells[cells["valid"]])
    cells = cells.assign(
        x=cells["x"].round(),
        load=[results.load(name).model_dump_json() for name in cells["cell"]],
    )
    found = []
    for _, own in cells.groupby([*_KEYS, "load"], dropna=False, sort=False):
        base, policy = (own[own["policy"] == name] for name in pair)
        if not (base.empty or policy.empty):
            found.append(_comparison(results, base, policy, pair))
    return found


def _comparison(
    results: Results, base: pd.DataFrame, policy: pd.DataFrame, pair: Pair
) -> Comparison:
    first = base.iloc[0]
    both = pd.concat([base, policy])
    effect = online = None
    load = results.load(first["cell"])
    if both["ttft_kind"].eq("measured").all():
        of_both = _same_requests(
            *([results.requests(cell) for _, cell in cells.iterrows()] for cells in (base, policy))
        )
        if isinstance(load, OpenLoop):
            online = _online(*of_both, load.turn_requests)
        else:
            effect = costline.effect(*of_both, int(first["batch_size"]))
    hit_rate = policy["hit_rate"].mean()
    return Comparison(
        package=ENGINES[first["engine"]].package,
        tier=first["tier"],
        workload=first["workload"],
        mode=first["mode"],
        batch_size=_number(first["batch_size"]),
        request_rate=_number(first["request_rate"]),
        load=load.label,
        x=float(first["x"]),
        seed=int(first["seed"]),
        measured=str(both["measured_at"].min()),
        machine=str(first["machine"]),
        pair=pair,
        base=tuple(base["cell"]),
        policy=tuple(policy["cell"]),
        hit_rates=(float(base["hit_rate"].mean()), float(hit_rate)),
        gains=tuple(100 * (hit_rate - base["hit_rate"])),
        effect=effect,
        online=online,
    )


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _same_requests(
    base: Sequence[pd.DataFrame], policy: Sequence[pd.DataFrame]
) -> tuple[list[pd.DataFrame], list[pd.DataFrame]]:
    """Keep the requests that succeeded in all cells: all, unless the limit on faults is raised."""
    common = set.intersection(
        *(set(one.loc[one["status"] == "ok", "request"]) for one in (*base, *policy))
    )
    kept = [one[one["request"].isin(common)].reset_index(drop=True) for one in (*base, *policy)]
    return kept[: len(base)], kept[len(base) :]


def _online(
    base: Sequence[pd.DataFrame], policy: Sequence[pd.DataFrame], turn_requests: int | None
) -> Estimate:
    """Compare mean TTFT in an open loop, where requests wait for each other and no line holds.

    Requests of one turn share a queue, those of two turns nothing but the machine: turns are what
    is independent. What equal cells differ by from turn to turn is the noise of one cell's turn.
    """
    count = len(base[0])
    turn = blocks(count) if turn_requests is None else np.arange(count) // turn_requests

    def sums(cells: Sequence[pd.DataFrame]) -> _Array:
        return np.array([np.bincount(turn, weights=one["ttft_ms"]) for one in cells], float)

    of_base, of_policy = sums(base), sums(policy)
    total = of_base.mean(axis=0).sum()
    value = float(100 * (of_policy.mean(axis=0).sum() / total - 1))
    if len(base) < 2:
        return Estimate(value, math.nan, 0)
    turns = of_base.shape[1]
    df = turns * (len(base) - 1)
    variance = ((of_base - of_base.mean(axis=0)) ** 2).sum() / df
    # Of the difference of two means of cells, over all turns.
    error = math.sqrt(variance * turns * (1 / len(base) + 1 / len(policy)))
    return Estimate(value, float(100 * error / total), df)
