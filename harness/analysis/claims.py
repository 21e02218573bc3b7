"""Claims as data, and a verdict on each from results.

``claims.yaml`` has what is claimed; nothing here knows a result. Each claim is judged once a tier.
Policies are compared in pairs of cells that got the same requests, request by request, and the
pairs are resampled by clusters (windows of doc-QA, conversations, else blocks of consecutive
requests; ``stats``), since requests are not independent. One test a claim and tier, of all its
points together, is corrected for their number (Holm). Where cells have a clock, equal cells of the
same run (A/A) say how large a difference is noise, and no less counts.

- *reproduced*: the difference has the claimed direction beyond chance and noise, at no point the
  other one, and at every point the paper's value lies within the tolerance of ours or in our 95 %
  interval. Of a claim that there is none: every interval lies within the tolerance of none.
- *direction only*: the same but for the size.
- *not reproduced*: it was measured, and is neither.
- *not run*: there are no valid cells to judge by, or no A/A to tell them from noise.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter

from harness.analysis import noise, paper
from harness.analysis.results import Results, not_run
from harness.analysis.stats import (
    Interval,
    blocks,
    holm,
    mean_interval,
    p_of_mean,
    sums_interval,
)
from harness.cell import Tier
from harness.errors import HarnessError
from harness.load.spec import Mode

_FILE = Path(__file__).with_name("claims.yaml")
ALPHA = 0.05
# With fewer windows than this, blocks of consecutive requests are the clusters.
_WINDOWS = 6
# Cache size of the paper's figure 6, thousand tokens.
_BATCH_CACHE = 200
_STOCK = "vllm-stock"

Quantity = Literal["hit_rate", "ttft", "batch_effect", "t1_median", "t1_swing"]
Verdict = Literal["reproduced", "smaller", "larger", "refuted", "undecided", "not run"]
UNITS: dict[Quantity, str] = {
    "hit_rate": "points",
    "ttft": "%",
    "batch_effect": "points",
    "t1_median": "points",
    "t1_swing": "correlation",
}
_Array = npt.NDArray[Any]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Evidence(_Section):
    """Where a tier's cells for a claim are, and how far from the paper they may be.

    ``tolerance`` is in the quantity's unit; without, the size is not judged.
    """

    figure: str
    mode: Mode = "batch"
    tolerance: float | None = None


class Claim(_Section):
    """One claim.

    ``quantity`` is what is compared: ``hit_rate``, ARC's less LRU's in points; ``ttft``, mean TTFT
    of ARC in percent of LRU's, less 100; ``batch_effect``, a policy's hit rate at a batch size less
    that at the smallest, in points; ``t1_median``, the median of T1's share of the cache in points;
    ``t1_swing``, the correlation of T1's share over one window with that over the next. ``over`` is
    what its points differ in.
    """

    id: str
    claim: str
    source: Literal["paper", "ours"]
    quantity: Quantity
    expect: Literal["up", "down", "flat"]
    workload: str
    over: Literal["cache_tokens", "batch_size", "request_rate"] = "cache_tokens"
    tiers: dict[Tier, Evidence]


@dataclass(frozen=True)
class Point:
    """A claim at one cache size, batch size or request rate, in the quantity's unit."""

    at: str
    ours: Interval
    paper: float | None = None


@dataclass(frozen=True)
class Measured:
    """What was found of a claim: its points, their mean, the p-value of no effect, the noise.

    ``noise`` is half the width of the band in which the mean of equal cells' differences lies in
    95 % of cases; None where equal cells are equal. ``p`` is None of a claim that there is none,
    which is not a test of no effect.
    """

    points: list[Point]
    mean: Interval
    p: float | None
    noise: float | None
    left_out: int = 0
    # Where that is not the mean of the points'.
    paper: float | None = None


class _NotRunError(Exception):
    """Why a claim cannot be judged."""


def read() -> list[Claim]:
    """Return the claims, in order."""
    return TypeAdapter(list[Claim]).validate_python(yaml.safe_load(_FILE.read_text("utf-8")))


def judge(results: Results) -> list[dict[str, Any]]:
    """Judge every claim in every tier by the results; return the content of ``claims.json``.

    Raises:
        HarnessError: if a cell's files are damaged, or cells of different origin would be compared.

    """
    rows: list[tuple[Claim, Tier, Evidence]] = []
    found: list[Measured | str] = []
    for claim in read():
        for tier, evidence in claim.tiers.items():
            try:
                found.append(_measure(results, claim, tier, evidence))
            except _NotRunError as error:
                found.append(str(error))
            rows.append((claim, tier, evidence))
    adjusted = iter(
        holm([one.p for one in found if isinstance(one, Measured) and one.p is not None])
    )
    judged = []
    for (claim, tier, evidence), one in zip(rows, found, strict=True):
        p = next(adjusted) if isinstance(one, Measured) and one.p is not None else None
        judged.append(_row(claim, tier, evidence, one, p))
    return judged


def write(judged: Sequence[dict[str, Any]], path: Path) -> None:
    """Write ``claims.json``, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(judged, indent=2, allow_nan=False) + "\n", "utf-8")
    os.replace(partial, path)


def load(path: Path) -> list[dict[str, Any]]:
    """Read what ``write`` wrote.

    Raises:
        HarnessError: if it is missing or damaged.

    """
    try:
        judged: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise HarnessError(
            f"{path}: not readable: {error}; `make claims` writes that of config cpu"
        ) from None
    return judged


def _row(
    claim: Claim, tier: Tier, evidence: Evidence, found: Measured | str, p: float | None
) -> dict[str, Any]:
    unit = UNITS[claim.quantity]
    row: dict[str, Any] = {
        **claim.model_dump(include={"id", "claim", "source"}),
        "tier": tier,
        "figure": evidence.figure,
        "quantity": claim.quantity,
        "unit": unit,
        "expect": claim.expect,
    }
    if isinstance(found, str):
        nothing = dict.fromkeys(("paper", "ours", "ci95", "p", "noise"))
        return row | nothing | {"verdict": "not run", "reason": found, "points": []}
    verdict, reason = verdict_of(claim, evidence, found, p)
    papers = [point.paper for point in found.points if point.paper is not None]
    of_paper = found.paper
    if of_paper is None and papers:
        of_paper = float(np.mean(papers))
    if found.left_out:
        reason += f" {_amount(found.left_out, 'points')} left out: invalid cells."
    return row | {
        "paper": of_paper,
        "ours": found.mean.value,
        "ci95": _ends(found.mean),
        "p": p,
        "noise": found.noise,
        "verdict": verdict,
        "reason": reason,
        "points": [
            {
                "at": point.at,
                "paper": point.paper,
                "ours": point.ours.value,
                "ci95": _ends(point.ours),
                "tolerance": evidence.tolerance,
            }
            for point in found.points
        ],
    }


def _amount(value: float, unit: str) -> str:
    return "1 point" if (value, unit) == (1, "points") else f"{value:g} {unit}"


def _ends(interval: Interval) -> list[float] | None:
    return None if math.isnan(interval.low) else [interval.low, interval.high]


def verdict_of(
    claim: Claim, evidence: Evidence, found: Measured, p: float | None
) -> tuple[Verdict, str]:
    """Return the verdict on a claim, and why in a sentence.

    Args:
        claim: The claim.
        evidence: Of the tier.
        found: What was measured.
        p: Its p-value, adjusted; None of a claim that there is none.

    """
    unit, tolerance = UNITS[claim.quantity], evidence.tolerance
    allowed = "" if tolerance is None else _amount(tolerance, unit)
    if claim.expect == "flat":
        assert tolerance is not None
        wide = [
            point.at
            for point in found.points
            if not (-tolerance <= _low(point) and _high(point) <= tolerance)
        ]
        if wide:
            return (
                "not reproduced",
                f"Not within {allowed} of none: {', '.join(wide)}.",
            )
        return "reproduced", f"All intervals lie within {allowed} of none."
    sign = 1 if claim.expect == "up" else -1
    noise = found.noise or 0.0
    if sign * found.mean.value <= 0:
        return "not reproduced", "The mean difference has the other direction, or is none."
    assert p is not None
    if p >= ALPHA:
        return "not reproduced", f"The difference may be chance (p = {p:.2g} after Holm)."
    if abs(found.mean.value) <= noise:
        return "not reproduced", (
            f"The difference is no larger than noise: equal cells differ by "
            f"up to {noise:.1f} {unit}."
        )
    # A point's own noise is larger than that of their mean.
    own_noise = noise * math.sqrt(len(found.points))
    against = [
        point.at
        for point in found.points
        if max(sign * _low(point), sign * _high(point)) < -own_noise
    ]
    if against:
        return "not reproduced", f"The difference has the other direction at {', '.join(against)}."
    beyond = "chance and noise" if found.noise is not None else "chance"
    direction = f"The difference has the claimed direction beyond {beyond}"
    off = [
        point.at
        for point in found.points
        if tolerance is not None
        and point.paper is not None
        and abs(point.ours.value - point.paper) > tolerance
        and not _low(point) <= point.paper <= _high(point)
    ]
    if off:
        return "direction only", (
            f"{direction}; its size is more than {allowed} from the paper's at {', '.join(off)}."
        )
    if all(point.paper is None for point in found.points):
        return "reproduced", f"{direction}."
    return "reproduced", f"{direction} and the paper's size at every point."


def _low(point: Point) -> float:
    return point.ours.value if math.isnan(point.ours.low) else point.ours.low


def _high(point: Point) -> float:
    return point.ours.value if math.isnan(point.ours.high) else point.ours.high


def _measure(results: Results, claim: Claim, tier: Tier, evidence: Evidence) -> Measured:
    cells = _cells(results, claim, tier, evidence)
    invalid = int(cells[~cells["valid"]].groupby(claim.over).ngroups)
    cells = cells[cells["valid"]]
    if cells.empty:
        raise _NotRunError("No valid cell.")
    if claim.quantity == "t1_median":
        found = _t1_median(results, claim, cells)
    elif claim.quantity == "t1_swing":
        found = _t1_swing(results, claim, cells)
    elif claim.quantity == "batch_effect":
        found = _batch_effect(results, claim, cells)
    else:
        found = _arc_against_lru(results, claim, cells)
    if not found.points:
        raise _NotRunError("No point with valid cells of both policies.")
    noise_of_mean = None
    if tier != "replay" and claim.quantity in ("hit_rate", "ttft"):
        band = noise.band(results, tier, claim.workload, evidence.mode, claim.quantity)
        if band is None:
            raise _NotRunError("No A/A cells (repeats) of it in this run to tell it from noise.")
        # Each point has cells of its own.
        noise_of_mean = band / math.sqrt(len(found.points))
    p = None if claim.expect == "flat" else found.p
    return replace(found, p=p, noise=noise_of_mean, left_out=invalid)


def _cells(results: Results, claim: Claim, tier: Tier, evidence: Evidence) -> pd.DataFrame:
    """Return the cells that a claim is about."""
    here = results.config.name
    if tier not in results.config.tiers:
        raise _NotRunError(f"Config {here} has no tier {tier}.")
    cells = results.of(tier, claim.workload, evidence.mode)
    cells = cells[(cells["engine"] != _STOCK) & cells["policy"].isin(["lru", "arc"])]
    if cells.empty:
        raise _NotRunError(f"Config {here} has no such cells.")
    if reason := not_run(cells):
        raise _NotRunError(reason[0].upper() + reason[1:] + ("" if reason[-1] == "." else "."))
    if claim.over == "batch_size":
        is_papers = cells["x"].round() == _BATCH_CACHE
        cells = cells[is_papers if is_papers.any() else cells["x"] == cells["x"].min()]
    elif evidence.mode == "batch":
        cells = cells[cells["batch_size"] == 1]
    return cells


def _papers(claim: Claim) -> dict[float, float]:
    """Return the paper's values by cache size in thousand tokens, or by batch size, if any."""
    if claim.source == "ours":
        return {}
    if claim.quantity == "t1_median":
        points = paper.points("fig7", claim.workload)
        return dict(zip(points["x"] / 1000, 100 * points["value"], strict=True))
    is_ttft = claim.quantity == "ttft"
    if claim.over == "batch_size":
        points = paper.points("fig6", claim.workload)
        points = points[points["metric"] == ("ttft_ratio_to_lru" if is_ttft else "hit_rate")]
        values = _by_policy(points, "value")
        gain = values["arc"] - (1 if is_ttft else values["lru"])
    else:
        points = paper.comparable(claim.workload)
        points = points.assign(x=(points["cache_tokens"] / 1000).round())
        values = _by_policy(points, "ttft_mean" if is_ttft else "hit_rate")
        gain = values["arc"] / values["lru"] - 1 if is_ttft else values["arc"] - values["lru"]
    return dict(zip(gain.index.astype(float), 100 * gain.astype(float), strict=True))


def _by_policy(points: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a column of the paper's points by x, a column a policy."""
    wide = points.pivot_table(index="x", columns="policy", values=column)
    return wide.reindex(columns=["lru", "arc"])


def _at(claim: Claim, x: float) -> str:
    if claim.over == "batch_size":
        return f"batch size {x:.0f}"
    return f"{x:g} requests/s" if claim.over == "request_rate" else f"{x:.0f}k tokens"


def _by_point(claim: Claim, cells: pd.DataFrame) -> list[tuple[float, pd.DataFrame]]:
    """Return the cells of each point; of a claim of the paper's only where it has a value."""
    key = cells["x"].round() if claim.over == "cache_tokens" else cells[claim.over]
    papers = _papers(claim)
    return [(float(x), own) for x, own in cells.groupby(key) if not papers or x in papers]


def _arc_against_lru(results: Results, claim: Claim, cells: pd.DataFrame) -> Measured:
    papers = _papers(claim)
    column = "ttft_ms" if claim.quantity == "ttft" else "cached_tokens"
    at, sums = [], []
    for x, own in _by_point(claim, cells):
        pairs = _pairs(results, own, "arc", "lru")
        if pairs is not None:
            at.append(x)
            sums.append(_cluster_sums(pairs, column))
    if not at:
        return Measured([], Interval(math.nan, math.nan, math.nan), 1.0, None)
    # The same clusters are in all points, since the requests are.
    common = sums[0].index
    for one in sums[1:]:
        common = common.intersection(one.index)
    if common.empty:
        raise _NotRunError("No requests that all points have.")
    # Clusters x points x (ARC, LRU, prompt tokens).
    stacked = np.stack([one.loc[common].to_numpy(float) for one in sums], axis=1)
    flat = stacked.reshape(len(stacked), -1)

    def differences(total: _Array) -> _Array:
        arc, lru, prompt = np.moveaxis(total.reshape(*total.shape[:-1], len(at), 3), -1, 0)
        found: _Array = 100 * (arc / lru - 1 if claim.quantity == "ttft" else (arc - lru) / prompt)
        return found

    points = [
        Point(
            _at(claim, x),
            sums_interval(flat, lambda total, i=i: differences(total)[..., i]),  # type: ignore[misc]
            papers.get(x),
        )
        for i, x in enumerate(at)
    ]
    mean = sums_interval(flat, lambda total: differences(total).mean(-1))
    arc, lru, prompt = np.moveaxis(stacked, -1, 0)
    scale = lru.sum(0) if claim.quantity == "ttft" else prompt.sum(0)
    return Measured(points, mean, p_of_mean(((arc - lru) / scale).sum(1)), None)


def _batch_effect(results: Results, claim: Claim, cells: pd.DataFrame) -> Measured:
    points, sums = [], []
    for policy, name in (("lru", "LRU"), ("arc", "ARC")):
        own = cells[cells["policy"] == policy]
        least = own["batch_size"].min()
        for size in sorted(set(own["batch_size"]) - {least}):
            both = own[own["batch_size"].isin([least, size])]
            pairs = _pairs(results, both, size, least, by="batch_size")
            if pairs is None:
                continue
            rows = _cluster_sums(pairs, "cached_tokens").to_numpy(float)
            points.append(Point(f"{name}, batch size {size:.0f}", sums_interval(rows, _difference)))
            sums.append(_difference(rows.sum(0)))
    mean = float(np.mean(sums)) if sums else math.nan
    return Measured(points, Interval(mean, math.nan, math.nan), None, None)


def _difference(total: _Array) -> _Array:
    found: _Array = 100 * (total[..., 0] - total[..., 1]) / total[..., 2]
    return found


def _pairs(
    results: Results, cells: pd.DataFrame, one: object, other: object, by: str = "policy"
) -> pd.DataFrame | None:
    """Return the requests of both cells of each seed, side by side; None if no seed has both.

    Returns:
        The requests' columns with ``_one`` and ``_other``, ``seed`` and ``cluster``.

    """
    found = []
    for seed, own in cells.groupby("seed"):
        first, second = own[own[by] == one], own[own[by] == other]
        if first.empty or second.empty:
            continue
        both = results.requests(first.iloc[0]).merge(
            results.requests(second.iloc[0]), on="request", suffixes=("_one", "_other")
        )
        # Valid cells have no others, unless the limit on them is raised.
        both = both[(both["status_one"] == "ok") & (both["status_other"] == "ok")]
        found.append(both.assign(seed=seed))
    if not found:
        return None
    pairs = pd.concat(found, ignore_index=True)
    return pairs.assign(cluster=_clusters(pairs))


def _clusters(pairs: pd.DataFrame) -> "pd.Series[Any]":
    """Name the cluster of each request: its conversation, its window, or a block of requests."""
    if pairs["session_one"].notna().all():
        kind = pairs["session_one"]
    elif pairs.groupby(["seed", "window_one"]).ngroups >= _WINDOWS:
        kind = pairs["window_one"]
    else:
        # Of whole batches of the largest batch size there is.
        kind = pairs.groupby("seed")["request"].transform(lambda own: blocks(len(own), 32))
    return pairs["seed"].astype(str) + "-" + kind.astype(str)


def _cluster_sums(pairs: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the sums over each cluster: of both cells' column and of prompt tokens."""
    columns = [f"{column}_one", f"{column}_other", "prompt_tokens_one"]
    return pairs.groupby("cluster")[columns].sum()


def _t1_windows(results: Results, cell: "pd.Series[Any]", window: int) -> list[_Array]:
    """Return T1's share of the cache in percent after each request, a row a whole window."""
    state = results.telemetry(cell)
    tier: Tier = cell["tier"]
    size = float(cell["cache_tokens"]) / results.config.tiers[tier].block_size
    share = 100 * state["t1"].to_numpy(float) / size
    return [share[at : at + window] for at in range(0, len(share) - window + 1, window)]


def _t1(results: Results, claim: Claim, cells: pd.DataFrame) -> dict[float, list[list[_Array]]]:
    """Return T1's share by cache size and seed, a row a window, of seeds that all sizes have."""
    window = int(getattr(results.config.workloads[claim.workload], "window", 512))
    points = _by_point(claim, cells[cells["policy"] == "arc"])
    seeds = set.intersection(*(set(own["seed"]) for _, own in points)) if points else set()
    if not seeds:
        raise _NotRunError("No seed that all cache sizes have.")
    return {
        x: [
            _t1_windows(results, cell, window)
            for _, cell in own.sort_values("seed").iterrows()
            if cell["seed"] in seeds
        ]
        for x, own in points
    }


def _t1_median(results: Results, claim: Claim, cells: pd.DataFrame) -> Measured:
    """Compare medians with the paper's; the effect is the last size's less the first's."""
    papers = _papers(claim)
    shares = {x: own for x, own in _t1(results, claim, cells).items() if x in papers}
    points, window_medians = [], []
    for x, of_seeds in shares.items():
        windows = [row for rows in of_seeds for row in rows]
        medians = np.array([np.median(row) for row in windows])
        interval = _of_mean(medians)
        half = interval.high - interval.value
        value = float(np.median(np.concatenate(windows)))
        points.append(Point(_at(claim, x), Interval(value, value - half, value + half), papers[x]))
        window_medians.append(medians)
    if len(points) < 2:
        raise _NotRunError("Fewer than two cache sizes.")
    rise = window_medians[-1] - window_medians[0]
    of_paper = [papers[x] for x in shares]
    return Measured(points, _of_mean(rise), p_of_mean(rise), None, paper=of_paper[-1] - of_paper[0])


def _t1_swing(results: Results, claim: Claim, cells: pd.DataFrame) -> Measured:
    """Correlate each window's course with the next one's; the first, on a cold cache, left out."""
    points, of_sizes = [], []
    for x, of_seeds in _t1(results, claim, cells).items():
        alike = np.array(
            [_correlation(one, other) for rows in of_seeds for one, other in pairwise(rows[1:])]
        )
        if len(alike):
            points.append(Point(_at(claim, x), _of_mean(alike)))
            of_sizes.append(alike)
    if not points:
        raise _NotRunError("Fewer than three windows.")
    mean = np.mean(of_sizes, axis=0)
    return Measured(points, _of_mean(mean), p_of_mean(mean), None)


def _correlation(one: _Array, other: _Array) -> float:
    """Return Pearson's correlation; 0 of what does not change."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _of_mean(values: _Array) -> Interval:
    mean, half = mean_interval(list(values))
    return Interval(mean, mean - half, mean + half)
