"""Claims as data, and a verdict on each from results.

``claims.yaml`` has what is claimed; nothing here knows a result. Each claim is judged once a tier,
on a policy against another, most on ARC against LRU (``comparisons``), and has two intervals. That
of the **measurement** says within what this machine would find it again (``noise``); hit rates
mostly repeat exactly. That of the **workload** says within what other documents, requests or
conversations would have it: from seeds, three or more, else from the conversations or windows of
the run; of one seed of doc-QA nobody knows. The verdict (``verdicts``) needs both: it is on what
the two cover together. A claim of at least so much is judged at every point by itself, where the
second is over that point's seeds.

TTFT is held, in tier ``gpu``, against the paper's, and in tier ``cpu``, which sends one window of
the paper's six at a tenth of the size, against the paper's own line from hit rate to TTFT
(``costmodel``) at the hit rates that were measured. It is the effect through hits (``costline``),
which leaves out what a policy itself costs: where that is more than noise nothing is decided.
"""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from scipy import stats

from harness.analysis import comparisons, costmodel, paper, verdicts
from harness.analysis.comparisons import PAPERS, Comparison, Pair
from harness.analysis.noise import Noise
from harness.analysis.results import Results, not_run, of_patched
from harness.analysis.stats import CONFIDENCE, Estimate, Interval, mean_of, ratio_interval
from harness.analysis.verdicts import Margins, Power, Verdict
from harness.cell import Mode, Tier
from harness.engines import registry
from harness.errors import HarnessError
from harness.policies import POLICIES
from workloads.docqa import DocQA

# The package of the engine that the paper measured; claims on others have a name of their own.
_PAPERS_PACKAGE = "vllm"
_FILE = Path(__file__).with_name("claims.yaml")
# Of a claim without a size: two-sided, so that no effect is called one in 1 of 200 runs.
_DIRECTION = 0.99
# A policy's own cost is looked at in every claim on TTFT, and hardly ever seen by chance.
_OWN_COST = 0.999
_LEAST_SEEDS = 3
# Cache size of the paper's figure 6, thousand tokens.
_BATCH_CACHE = 200

Quantity = Literal["hit_rate", "ttft", "batch_effect", "t1_median", "t1_swing", "unreachable"]
UNITS: dict[Quantity, str] = {
    "hit_rate": "points",
    "ttft": "%",
    "batch_effect": "points",
    "t1_median": "points",
    "t1_swing": "correlation",
    "unreachable": "% of cached blocks",
}
_Array = npt.NDArray[Any]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Evidence(_Section):
    """Where a tier's cells for a claim are."""

    figure: str
    mode: Mode = "batch"


class Claim(_Section):
    """One claim.

    It is on a ``policy``, held against a ``base``. ``quantity`` is what is compared: ``hit_rate``,
    the policy's less the base's in points; ``ttft``, its mean TTFT in percent of the base's, less
    100; ``batch_effect``, a policy's hit rate at a batch size less that at the smallest, in points;
    ``t1_median``, the median of T1's share of the cache in points, at the largest cache less at the
    smallest; ``t1_swing``, the correlation of T1's share over one window with that over the next;
    ``unreachable``, the share of the policy's cached blocks that no request can use. ``over`` is
    what its points differ in; ``at`` names the cache sizes, in thousand tokens, if not all count.
    ``margins`` are of the share of the paper's effect; of a claim that there is none, ``tolerance``
    is how much is none, in the quantity's unit. What is expected to be ``at-least`` so much is held
    against ``least``, of all points or of each one's own.
    """

    id: str
    claim: str
    source: Literal["paper", "ours"]
    quantity: Quantity
    expect: Literal["up", "down", "flat", "at-least"]
    workload: str
    policy: str = PAPERS.policy
    base: str = PAPERS.base
    over: Literal["cache_tokens", "batch_size", "request_rate"] = "cache_tokens"
    margins: Margins | None = None
    tolerance: float | None = None
    at: tuple[int, ...] = ()
    least: tuple[float, ...] = Field((), description="one of all points, or one for each of `at`")
    tiers: dict[Tier, Evidence]
    sglang: dict[Tier, Evidence] = Field(default_factory=dict)

    @property
    def evidence(self) -> dict[str, dict[Tier, Evidence]]:
        """By the package of the engines, where each tier's cells are."""
        return {_PAPERS_PACKAGE: self.tiers, "sglang": self.sglang}

    @property
    def pair(self) -> Pair:
        """What is compared."""
        return Pair(self.base, self.policy)

    def least_at(self, x: float) -> float | None:
        """Return how much is expected at least at a cache size, if anything."""
        if len(self.least) > 1:
            return self.least[self.at.index(round(x))]
        return self.least[0] if self.least else None

    @model_validator(mode="after")
    def _has_what_decides(self) -> "Claim":
        if (self.expect == "flat") != (self.tolerance is not None):
            raise ValueError(f"{self.id}: a tolerance is of a flat claim, which needs one")
        if (self.expect == "at-least") != bool(self.least):
            raise ValueError(f"{self.id}: a least is of what is at-least so much, which needs one")
        if len(self.least) > 1 and len(self.least) != len(self.at):
            raise ValueError(f"{self.id}: {len(self.least)} leasts for {len(self.at)} sizes")
        if self.margins and not 0 < self.margins[0] < 1 < self.margins[1]:
            raise ValueError(f"{self.id}: margins {self.margins} are not around 1")
        return self


@dataclass(frozen=True)
class Point:
    """A claim at one cache size, batch size or request rate, in the quantity's unit.

    ``drawn`` is the same with the error of another draw of the workload, where that is known of the
    point; ``least`` what is expected there at least. ``beside`` is of TTFT: the ``plain`` ratio,
    that on requests of ``equal_hits``, and the difference in differences (``did``), as
    ``costline.Effect`` has them.
    """

    at: str
    ours: Estimate
    paper: float | None = None
    beside: dict[str, float | None] = field(default_factory=dict)
    drawn: Estimate | None = None
    least: float | None = None


@dataclass(frozen=True)
class Measured:
    """What was found of a claim: its points, the effect, and what is claimed of that.

    ``effect`` has the measurement's error, ``workload`` that of another draw (None: not known).
    ``own_cost`` is what the policy costs by itself, in percent of TTFT.
    """

    points: list[Point]
    effect: Estimate
    paper: float | None
    workload: Estimate | None = None
    own_cost: Estimate | None = None
    left_out: int = 0


@dataclass(frozen=True)
class _Evidence:
    """What a claim is judged by."""

    results: Results
    comparisons: Sequence[Comparison]
    noise: Noise


class _NotRunError(Exception):
    """Why a claim cannot be judged."""


def read() -> list[Claim]:
    """Return the claims, in order."""
    return TypeAdapter(list[Claim]).validate_python(yaml.safe_load(_FILE.read_text("utf-8")))


def judge(results: Results, history: pd.DataFrame) -> list[dict[str, Any]]:
    """Judge every claim in every tier by the results; return the content of ``claims.json``.

    A claim on a workload or a policy that the config does not have is none of it.

    Args:
        results: Of the run.
        history: Of other runs, for the noise (``noise.read``).

    Raises:
        HarnessError: if a cell's files are damaged, or cells of different origin would be compared.

    """
    claims = on(results)
    pairs = dict.fromkeys([PAPERS, *(claim.pair for claim in claims)])
    compared = [one for pair in pairs for one in comparisons.compare(results, pair=pair)]
    return judge_compared(results, compared, history, claims)


def on(results: Results) -> list[Claim]:
    """Return the claims on workloads and policies that a run's config has, in order."""
    policies = {cell.policy for cell in results.config.cells.values()}
    return [
        claim
        for claim in read()
        if claim.workload in results.config.workloads
        and (claim.pair == PAPERS or policies >= {*claim.pair})
    ]


def judge_compared(
    results: Results,
    compared: Sequence[Comparison],
    history: pd.DataFrame,
    claims: Sequence[Claim],
) -> list[dict[str, Any]]:
    """Judge some claims by comparisons of the run's cells, as ``judge`` does all of them."""
    rows = []
    for claim in claims:
        of_pair = [one for one in compared if one.pair == claim.pair]
        noise = Noise(of_pair, history)
        for package, tiers in claim.evidence.items():
            if package not in (_PAPERS_PACKAGE, *results.packages):
                continue
            if claim.workload not in results.config.workloads:
                continue
            evidence = _Evidence(results.on(package), of_pair, noise)
            rows += [
                _row(_named(claim, package), tier, where, _found(evidence, claim, tier, where))
                for tier, where in tiers.items()
            ]
    return rows


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


def _named(claim: Claim, package: str) -> Claim:
    """Return a claim by the name that it has on another package than the paper's."""
    if package == _PAPERS_PACKAGE:
        return claim
    project = registry.patched(package, next(iter(claim.evidence[package]))).project
    named = {"id": f"{claim.id}-{package}", "claim": f"{project}: {claim.claim}"}
    return claim.model_copy(update=named)


def _row(claim: Claim, tier: Tier, where: Evidence, found: Measured | str) -> dict[str, Any]:
    row: dict[str, Any] = {
        **claim.model_dump(include={"id", "claim", "source"}),
        "tier": tier,
        "figure": where.figure,
        "quantity": claim.quantity,
        "unit": UNITS[claim.quantity],
        "expect": claim.expect,
        "margins": claim.margins,
    }
    if isinstance(found, str):
        nothing = dict.fromkeys(
            ("paper", "ours", "ci95", "workload_ci95", "noise", "noise_df", "share", "share_ci95")
        )
        no_power = dict.fromkeys(("power", "wrong_half", "wrong_none"))
        return row | nothing | no_power | {"verdict": "not run", "reason": found, "points": []}
    verdict, reason, share, power = decide(claim, found)
    if found.left_out:
        points = f"{found.left_out} point" + ("s" if found.left_out > 1 else "")
        reason += f" {points} left out: invalid cells."
    error = found.effect.error
    return row | {
        "paper": found.paper,
        "ours": found.effect.value,
        "ci95": _ends(found.effect.interval()),
        "workload_ci95": _ends(found.workload.interval()) if found.workload else None,
        "noise": error if error and math.isfinite(error) else None,
        "noise_df": found.effect.df if error and math.isfinite(error) else None,
        "share": share.value if share else None,
        "share_ci95": _ends(share) if share else None,
        "power": power.full if power else None,
        "wrong_half": power.half if power else None,
        "wrong_none": power.none if power else None,
        "verdict": verdict,
        "reason": reason,
        "points": [
            {
                "at": point.at,
                "paper": point.paper,
                "ours": point.ours.value,
                "ci95": _ends(_of_point(point)),
                "allowed": _allowed(claim, point),
                **point.beside,
            }
            for point in found.points
        ],
    }


def _ends(interval: Interval) -> list[float] | None:
    """Return an interval's ends; None of what is exact, or of one without an end."""
    if interval.low == interval.high or not math.isfinite(interval.low):
        return None
    return [interval.low, interval.high]


def _allowed(claim: Claim, point: Point) -> list[float] | None:
    if claim.tolerance is not None:
        return [-claim.tolerance, claim.tolerance]
    if claim.margins is None or point.paper is None:
        return None
    return sorted(margin * point.paper for margin in claim.margins)


def decide(claim: Claim, found: Measured) -> tuple[Verdict, str, Interval | None, Power | None]:
    """Return the verdict on a claim, why in a sentence, the share of the effect, and the power.

    Args:
        claim: The claim.
        found: What was measured.

    Returns:
        The share and the power are None where no size is claimed.

    """
    unit = UNITS[claim.quantity]
    if claim.tolerance is not None:
        verdict = verdicts.of_none(
            [point.ours.interval() for point in found.points], claim.tolerance
        )
        return verdict, _on_none(claim, found, verdict), None, None
    if claim.expect == "at-least":
        return (*_at_least(claim, found), None, None)
    # Of a CPU whose hit rates differ the other way, the paper's line expects what is not claimed.
    if claim.margins is None or not found.paper or (found.paper > 0) != (claim.expect == "up"):
        assert claim.expect in ("up", "down")
        effect = _covered(found, _DIRECTION)
        verdict = verdicts.of_direction(effect, claim.expect)
        said = {
            "reproduced": "lies on the claimed side of none",
            "refuted": "has no value on the claimed side",
        }.get(verdict, "has values on both sides of none")
        interval = (
            f"The 99 % interval, {_said(effect, '+.1f')} {unit}, "
            if found.effect.error or found.workload
            else f"The effect, {effect.value:+.1f} {unit}, "
        )
        reason = interval + said + "."
        return _with_own_cost(claim, found, verdict, reason + _unknown(found), None, None)
    share = _share(_covered(found, CONFIDENCE), found.paper)
    verdict = verdicts.of_share(share, claim.margins)
    low, high = claim.margins
    said = {
        "reproduced": f"lies within {low:g} to {high:g}",
        "smaller": f"lies below {low:g}",
        "larger": f"lies above {high:g}",
        "refuted": "is of the other direction, or none",
    }.get(verdict, f"does not lie within {low:g} to {high:g}, nor wholly outside")
    reason = f"The share of the paper's effect, {_said(share, '.2f')}, {said}."
    if verdict == "undecided":
        reason += _more_needed(found, share, claim.margins)
    power = verdicts.power(share, claim.margins)
    return _with_own_cost(claim, found, verdict, reason + _unknown(found), share, power)


def _on_none(claim: Claim, found: Measured, verdict: Verdict) -> str:
    unit = UNITS[claim.quantity]
    within = f"{claim.tolerance:g} {unit.rstrip('s') if claim.tolerance == 1 else unit} of none"
    if verdict == "reproduced":
        return f"Within {within} at every point."
    if verdict == "refuted":
        assert claim.tolerance is not None
        one = [verdicts.of_none([point.ours.interval()], claim.tolerance) for point in found.points]
        out = [point.at for point, own in zip(found.points, one, strict=True) if own == "refuted"]
        return f"Further than {within} at {', '.join(out)}."
    return f"The intervals are too wide to say whether it is within {within}." + _unknown(found)


def _at_least(claim: Claim, found: Measured) -> tuple[Verdict, str]:
    """Decide on a claim of "never less": the point that is furthest below is what counts."""
    unit = UNITS[claim.quantity]
    intervals = [(point, _of_point(point), point.least) for point in found.points]
    one = [verdicts.of_least(interval, least or 0.0) for _, interval, least in intervals]
    verdict = verdicts.of_all(one)
    if verdict == "reproduced":
        point, interval, least = min(intervals, key=lambda each: each[1].low - (each[2] or 0.0))
        where = "At every point at least as much; nearest" if len(intervals) > 1 else "It is"
        reason = f"{where} at {point.at}: {_said(interval, '+.2f')} {unit}, of at least {least:+g}."
    else:
        are = "It is less" if verdict == "refuted" else "The interval has less, and more,"
        named = "; ".join(
            f"at {point.at}: {_said(interval, '+.2f')} {unit}, of at least {least:+g}"
            for (point, interval, least), own in zip(intervals, one, strict=True)
            if own == verdict
        )
        reason = f"{are} {named}."
    known = [point.drawn is not None for point in found.points]
    drawn = " Intervals are over seeds, 95 % at each point." if all(known) else ""
    return verdict, reason + drawn + _unknown(found)


def _of_point(point: Point) -> Interval:
    """Return what the intervals of a point's measurement and draw cover together."""
    both = [one.interval() for one in (point.ours, point.drawn) if one is not None]
    return Interval(point.ours.value, min(one.low for one in both), max(one.high for one in both))


def _unknown(found: Measured) -> str:
    if math.isnan(found.effect.error):
        return " How large noise is is not known: nothing comparable was measured twice."
    return ""


def _more_needed(found: Measured, share: Interval, margins: Margins) -> str:
    times = verdicts.more_needed(share, margins)
    if not math.isfinite(times):
        return ""
    measured, drawn = (
        one.interval().high - one.value if one and one.error else 0.0
        for one in (found.effect, found.workload)
    )
    what = "seeds" if drawn > measured else "requests or runs"
    return (
        f" If that is its size, about {max(2, math.ceil(times))} times as many {what} would decide."
    )


def _with_own_cost(
    claim: Claim,
    found: Measured,
    verdict: Verdict,
    reason: str,
    share: Interval | None,
    power: Power | None,
) -> tuple[Verdict, str, Interval | None, Power | None]:
    """Decide nothing through hits where a policy's own cost stands out of the noise."""
    if found.own_cost is not None:
        cost = found.own_cost.interval(_OWN_COST)
        if cost.low > 0 or cost.high < 0:
            slower = "slower" if cost.value > 0 else "faster"
            return (
                "undecided",
                f"{reason} But at equal hits {_label(claim.policy)} is {abs(cost.value):.1f} % "
                f"{slower} than {_label(claim.base)}, "
                "beyond noise, which an effect through hits leaves out.",
                share,
                power,
            )
    return verdict, reason, share, power


def _label(policy: str) -> str:
    return POLICIES[policy].label


def _said(interval: Interval, form: str) -> str:
    value, low, high = (format(each, form) for each in interval)
    if math.isinf(interval.low):
        return f"{value} [?]"
    return value if low == high else f"{value} [{low}, {high}]"


def _covered(found: Measured, confidence: float) -> Interval:
    """Return what the intervals of the measurement and of the workload cover together."""
    both = [one.interval(confidence) for one in (found.effect, found.workload) if one is not None]
    return Interval(found.effect.value, min(one.low for one in both), max(one.high for one in both))


def _share(effect: Interval, of_paper: float) -> Interval:
    ends = sorted((effect.low / of_paper, effect.high / of_paper))
    return Interval(effect.value / of_paper, *ends)


def _found(evidence: _Evidence, claim: Claim, tier: Tier, where: Evidence) -> Measured | str:
    try:
        return _measure(evidence, claim, tier, where)
    except _NotRunError as error:
        return str(error)


def _measure(evidence: _Evidence, claim: Claim, tier: Tier, where: Evidence) -> Measured:
    cells = _cells(evidence.results, claim, tier, where)
    invalid = int(cells[~cells["valid"]].groupby(claim.over).ngroups)
    cells = cells[cells["valid"]]
    if cells.empty:
        raise _NotRunError("No valid cell.")
    if claim.quantity == "t1_median":
        found = _t1_median(evidence.results, claim, cells)
    elif claim.quantity == "t1_swing":
        found = _t1_swing(evidence.results, claim, cells)
    elif claim.quantity == "batch_effect":
        found = _batch_effect(claim, cells)
    elif claim.quantity == "unreachable":
        found = _unreachable(claim, cells)
    else:
        found = _against_base(evidence, claim, cells)
    if not found.points:
        raise _NotRunError("No point with valid cells of both policies.")
    return replace(found, left_out=invalid)


def _cells(results: Results, claim: Claim, tier: Tier, where: Evidence) -> pd.DataFrame:
    """Return the cells that a claim is about, repeats left out."""
    here = results.config.name
    if tier not in results.config.tiers:
        raise _NotRunError(f"Config {here} has no tier {tier}.")
    cells = of_patched(results.of(tier, claim.workload, where.mode))
    cells = cells[cells["policy"].isin(claim.pair)]
    if claim.at:
        cells = cells[cells["x"].round().isin(claim.at)]
    if cells.empty:
        raise _NotRunError(f"Config {here} has no such cells.")
    if reason := not_run(cells):
        raise _NotRunError(reason[0].upper() + reason[1:] + ("" if reason[-1] == "." else "."))
    if claim.over == "batch_size":
        is_papers = cells["x"].round() == _BATCH_CACHE
        cells = cells[is_papers if is_papers.any() else cells["x"] == cells["x"].min()]
    elif where.mode in ("batch", "batch-http"):
        cells = cells[cells["batch_size"] == 1]
    # Requests at a trace's own times have no rate.
    return cells[cells[claim.over].notna()]


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


def _against_base(evidence: _Evidence, claim: Claim, cells: pd.DataFrame) -> Measured:
    quantity: Literal["hit_rate", "ttft"] = "ttft" if claim.quantity == "ttft" else "hit_rate"
    papers = _papers(claim)
    wanted = set(cells["cell"])
    compared = sorted(
        (
            one
            for one in evidence.comparisons
            if wanted & {*one.base, *one.policy}
            and (quantity == "hit_rate" or one.effect or one.online)
            and (not papers or _x(claim, one) in papers)
        ),
        key=lambda one: _x(claim, one),
    )
    points, of_points = [], []
    for x, group in groupby(compared, lambda one: _x(claim, one)):
        own = list(group)
        of_points.append(own)
        ours = mean_of([evidence.noise.of(one, quantity) for one in own], of_one_noise=True)
        beside = _beside(own) if quantity == "ttft" else {}
        points.append(
            Point(
                _at(claim, x),
                ours,
                _mean(claimed(claim, one) for one in own),
                beside,
                _of_seeds([one.gain for one in own]) if claim.expect == "at-least" else None,
                claim.least_at(x),
            )
        )
    if not points:
        return Measured([], Estimate(math.nan), None)
    costs = [
        evidence.noise.of(one, "own_cost")
        for one in compared
        if quantity == "ttft" and one.effect is not None
    ]
    # Noise is pooled by batch size.
    of_one = claim.over != "batch_size"
    return Measured(
        points,
        mean_of([point.ours for point in points], of_one),
        _mean(point.paper for point in points),
        _workload(evidence.results, of_points, quantity),
        mean_of(costs, of_one) if costs else None,
    )


def claimed(claim: Claim, one: Comparison) -> float | None:
    """Return what the paper leads to expect of a comparison, in the claim's unit, if anything.

    Of TTFT on a CPU, it is what the paper's line makes of our hit rates; else the paper's value.
    """
    papers = _papers(claim)
    if claim.quantity == "hit_rate" or one.tier == "gpu" or not papers:
        return papers.get(_x(claim, one))
    model = costmodel.of_paper(paper.stands_in_for(one.workload) or one.workload)
    assert model is not None
    of_lru, of_arc = map(model.ttft_ms, one.hit_rates)
    return 100 * (of_arc / of_lru - 1)


def _x(claim: Claim, one: Comparison) -> float:
    """Return where a claim's points have a comparison."""
    if claim.over == "cache_tokens":
        return one.x
    at = one.batch_size if claim.over == "batch_size" else one.request_rate
    assert at is not None
    return at


def _beside(own: Sequence[Comparison]) -> dict[str, float | None]:
    """Return what goes beside an effect through hits, means of the seeds."""
    return {
        name: _mean(getattr(one.effect, name) for one in own if one.effect)
        for name in ("plain", "equal_hits", "did")
    }


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that there are."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _workload(
    results: Results, of_points: Sequence[Sequence[Comparison]], quantity: str
) -> Estimate | None:
    """Return the mean over the points with the error of another draw of the workload, if known."""
    seeds = set.intersection(*({one.seed for one in own} for own in of_points))
    gains = [
        float(np.mean([one.gain for own in of_points for one in own if one.seed == seed]))
        for seed in sorted(seeds)
    ]
    if quantity == "hit_rate" and (found := _of_seeds(gains)):
        return found
    if quantity == "hit_rate":
        return _of_sessions(results, [one for own in of_points for one in own])
    return None


def _of_seeds(gains: Sequence[float]) -> Estimate | None:
    """Return the mean over seeds with its error; None of too few."""
    return _of_mean(gains) if len(gains) >= _LEAST_SEEDS else None


def _of_sessions(results: Results, compared: Sequence[Comparison]) -> Estimate | None:
    """Return the mean gain with its error over the conversations; None where there are none."""
    if any(isinstance(results.config.workloads[one.workload], DocQA) for one in compared):
        return None
    gains = []
    for one in compared:
        base, policy = (
            results.requests(results.cell(names[0])) for names in (one.base, one.policy)
        )
        if base["session"].isna().any():
            return None
        gain = 100 * (policy["cached_tokens"] - base["cached_tokens"])
        gains.append(
            base.assign(gain=gain, seed=one.seed)[
                ["seed", "session", "request", "gain", "prompt_tokens"]
            ]
        )
    requests = pd.concat(gains).groupby(["seed", "session", "request"], as_index=False).mean()
    found = ratio_interval(
        requests["gain"],
        requests["prompt_tokens"],
        requests.groupby(["seed", "session"]).ngroup(),
    )
    # An interval of a bootstrap has no degrees of freedom of its own.
    return Estimate(found.value, (found.high - found.low) / (2 * 1.96))


def _batch_effect(claim: Claim, cells: pd.DataFrame) -> Measured:
    """Compare hit rates by batch size; in tier replay, which repeats exactly."""
    points = []
    rates = 100 * cells.groupby(["policy", "batch_size"])["hit_rate"].mean()
    for policy, name in (("lru", "LRU"), ("arc", "ARC")):
        own = rates[policy] if policy in rates.index.get_level_values(0) else rates.iloc[:0]
        for size in list(own.index)[1:]:
            points.append(
                Point(f"{name}, batch size {size:.0f}", Estimate(float(own[size] - own.iloc[0])))
            )
    mean = float(np.mean([point.ours.value for point in points])) if points else math.nan
    return Measured(points, Estimate(mean), None)


def _unreachable(claim: Claim, cells: pd.DataFrame) -> Measured:
    """Return the largest share of the seeds, each the mean over its cell."""
    own = cells[cells["policy"] == claim.policy]
    if own["unreachable"].isna().any():
        raise _NotRunError("It was not counted in these cells.")
    points = [
        Point(_at(claim, x), Estimate(100 * float(of_size["unreachable"].max())))
        for x, of_size in _by_point(claim, own)
    ]
    mean = float(np.mean([point.ours.value for point in points])) if points else math.nan
    return Measured(points, Estimate(mean), None)


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
    found = {
        x: [
            _t1_windows(results, cell, window)
            for _, cell in own.sort_values("seed").iterrows()
            if cell["seed"] in seeds
        ]
        for x, own in points
    }
    if not all(windows for of_seeds in found.values() for windows in of_seeds):
        raise _NotRunError("Fewer requests than a window.")
    return found


def _t1_median(results: Results, claim: Claim, cells: pd.DataFrame) -> Measured:
    """Compare medians with the paper's; the effect is the last size's less the first's."""
    papers = _papers(claim)
    shares = {x: own for x, own in _t1(results, claim, cells).items() if x in papers}
    if len(shares) < 2:
        raise _NotRunError("Fewer than two of the paper's cache sizes.")
    windows = {x: [row for rows in of_seeds for row in rows] for x, of_seeds in shares.items()}
    medians = {x: float(np.median(np.concatenate(rows))) for x, rows in windows.items()}
    points = [Point(_at(claim, x), Estimate(value), papers[x]) for x, value in medians.items()]
    first, last = min(shares), max(shares)
    rise = [
        float(np.median(above) - np.median(below))
        for above, below in zip(windows[last], windows[first], strict=True)
    ]
    return Measured(
        points,
        Estimate(medians[last] - medians[first]),
        papers[last] - papers[first],
        _of_mean(rise),
    )


def _t1_swing(results: Results, claim: Claim, cells: pd.DataFrame) -> Measured:
    """Correlate each window's course with the next one's; the first, on a cold cache, left out."""
    points, of_sizes = [], []
    for x, of_seeds in _t1(results, claim, cells).items():
        alike = np.array(
            [_correlation(one, other) for rows in of_seeds for one, other in pairwise(rows[1:])]
        )
        if len(alike):
            points.append(Point(_at(claim, x), Estimate(float(alike.mean()))))
            of_sizes.append(alike)
    if not points:
        raise _NotRunError("Fewer than three windows.")
    mean = np.mean(of_sizes, axis=0)
    value = float(mean.mean())
    # Of one pair of windows, nobody knows what another would have.
    return Measured(points, Estimate(value), None, _of_mean(mean) or Estimate(value, math.nan, 0))


def _correlation(one: _Array, other: _Array) -> float:
    """Return Pearson's correlation; 0 of what does not change."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _of_mean(values: Iterable[float]) -> Estimate | None:
    """Return the mean of values that are independent, with its error; None of a single one."""
    each = np.asarray(list(values), float)
    if len(each) < 2:
        return None
    return Estimate(float(each.mean()), float(stats.sem(each)), len(each) - 1)
