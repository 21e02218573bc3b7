"""Made-up nights for the gate; nothing in them was measured.

``python tests/support/nights.py`` counts the alarms of many made-up years, and the nights that a
drift of a given size takes to be found: the figures that ``harness.analysis.gate`` states.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
from scipy import stats

from harness.analysis import gate, verdicts
from harness.analysis.gate import Claim, Judgement, Night, Point
from harness.analysis.stats import Interval
from harness.analysis.verdicts import Verdict

FIRST = datetime(2030, 1, 1, 2, 30, tzinfo=UTC)
# Of a ratio of TTFT, from night to night, in per cent.
SPREAD = 1.5
# Degrees of freedom with which a night knows that; and as good as all that there are.
DEGREES = 4.0
CERTAIN = 1e6
SETTING = {
    "engine_version": ("0.32.0",),
    "patches_sha256": ("aa",),
    "model_sha256": ("bb",),
    "machine": ("one H100",),
}


@dataclass(frozen=True)
class Made:
    """A claim to make nights of: its true values, and how it is judged."""

    id: str
    quantity: str = "ttft"
    expect: str = "down"
    truth: tuple[float, ...] = (-12.6, -10.3, -8.2, -6.0, -4.8, -3.1)
    paper: tuple[float, ...] | None = (-12.6, -11.0, -8.0, -5.0, -3.0, -2.0)
    # Of the share of the paper's effect; and of a claim that something is flat.
    margins: tuple[float, float] = (0.67, 1.5)
    tolerance: float = 5.0
    # The true standard error of a point by noise, and the degrees of freedom of a night's estimate.
    noise: float | None = SPREAD
    noise_df: float = DEGREES
    # Standard deviation from night to night, of which a share is common to the points.
    spread: float = SPREAD
    common: float = 0.5

    @property
    def key(self) -> gate.Key:
        """What names the claim."""
        return self.id, "replay" if self.quantity == "hit_rate" else "gpu", self.quantity

    def night(self, rng: np.random.Generator, shift: float = 0.0) -> Claim:
        """Return the claim as one night measures it, all points shifted."""
        size = len(self.truth)
        own = np.sqrt(1 - self.common) * rng.normal(size=size) + np.sqrt(self.common) * rng.normal()
        values = np.array(self.truth) + shift + self.spread * own
        luck = math.sqrt(rng.chisquare(self.noise_df) / self.noise_df)
        return self._judged(values, self.noise and self.noise * luck)

    def _judged(self, values: "np.ndarray[Any, Any]", noise: float | None) -> Claim:
        papers = self.paper or [None] * len(values)
        points = tuple(
            Point(
                at=f"{50 * (i + 1)}k tokens",
                ours=value,
                ci95=self._around(value, noise),
                allowed=self._allowed(paper),
            )
            for i, (value, paper) in enumerate(zip(values.tolist(), papers, strict=True))
        )
        paper = None if self.paper is None else float(np.mean(self.paper))
        ours = float(values.mean())
        of_mean = noise and noise / len(points) ** 0.5
        _, tier, quantity = self.key
        claim = {
            "id": self.id,
            "claim": f"made-up claim {self.id}",
            "tier": tier,
            "quantity": quantity,
            "unit": "points" if quantity == "hit_rate" else "%",
            "expect": self.expect,
            "paper": paper,
            "ours": ours,
            "ci95": self._around(ours, of_mean),
            "noise": of_mean,
            "noise_df": None if of_mean is None else self.noise_df,
            "margins": None if self.paper is None else self.margins,
            "verdict": "undecided",
            "reason": "made up",
            "points": points,
        }
        return self._with_verdict(Claim.model_validate(claim))

    def _around(
        self, value: float, noise: float | None, confidence: float = 0.95
    ) -> tuple[float, float] | None:
        if noise is None:
            return None
        half = _student(self.noise_df, confidence) * noise
        return value - half, value + half

    def _allowed(self, paper: float | None) -> tuple[float, float] | None:
        if self.expect == "flat":
            return -self.tolerance, self.tolerance
        if paper is None:
            return None
        low, high = sorted(margin * paper for margin in self.margins)
        return low, high

    def _with_verdict(self, claim: Claim) -> Claim:
        """Return the claim judged as ``harness.analysis.claims`` does."""
        assert claim.ours is not None
        verdict: Verdict
        if claim.expect == "flat":
            points = [
                Interval(value, *point.interval)
                for point in claim.points
                if (value := point.ours) is not None
            ]
            verdict = verdicts.of_none(points, self.tolerance)
        elif claim.paper is None:
            ends = self._around(claim.ours, claim.noise, 0.99) or claim.interval
            verdict = verdicts.of_direction(Interval(claim.ours, *ends), claim.expect)
        else:
            share, low, high = (end / claim.paper for end in (claim.ours, *claim.interval))
            verdict = verdicts.of_share(Interval(share, *sorted((low, high))), self.margins)
        return claim.model_copy(update={"verdict": verdict})


@cache
def _student(freedom: float, confidence: float) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, freedom))


def rng(seed: int) -> np.random.Generator:
    """Return what the noise is drawn from."""
    return np.random.default_rng(seed)


def exact(name: str, *truth: float, paper: Sequence[float] | None = None, **changes: Any) -> Made:
    """Return a claim on hit rates, which repeat exactly, in points."""
    return Made(
        name,
        "hit_rate",
        truth=truth,
        paper=None if paper is None else tuple(paper),
        **{"expect": "up", "tolerance": 1.0, "noise": None, "spread": 0.0} | changes,
    )


def ratios(name: str, *truth: float, **changes: Any) -> Made:
    """Return a claim on ratios of TTFT that the paper does not make."""
    return Made(name, truth=truth, **{"paper": None} | changes)


C1 = exact("C1", 10.2, 7.5, 5.4, 3.6, 2.7, 1.6, paper=(10.8, 8.1, 5.8, 3.5, 2.2, 1.3))
C2 = Made("C2")
# Strong and weak claims, some that are near a limit, some that never held.
CLAIMS = (
    C1,
    exact("C3", 5.8, 7.0, 10.0, paper=(7.8, 5.0, 2.5)),
    exact("C5", 0.1, -0.1, expect="flat"),
    exact("L1", -0.5, -1.6, -6.5, expect="up"),
    exact("L2", -0.5, -1.6, -6.5, expect="down"),
    C2,
    Made("C3", truth=(-7.9, -6.0, -3.6), paper=(-7.9, -6.0, -3.6)),
    Made("C4", truth=(-2.0, -1.0), paper=(-2.0, -1.0)),
    Made("C5", truth=(-6.0, -6.0, -7.0), paper=(-6.0, -6.0, -7.0), common=1.0),
    ratios("O1", -12.0, common=1.0),
    ratios("O2", -9.0, common=1.0),
    ratios("O3", -3.0, common=1.0),
    ratios("O4", 0.0, 0.0, expect="flat"),
    ratios("O5", 10.0, common=1.0),
    # A point whose interval ends where what is allowed begins, and points that are where it does.
    Made("O6", truth=(-6.0, -6.0), paper=(-15.0, -4.0), common=1.0),
    Made("O7", truth=(-6.0, -6.0), paper=(-9.0, -4.0), common=0.0),
)

# Night -> by how much a claim's points are shifted.
Shift = Callable[[int], float]


def nights(
    count: int, claims: Sequence[Made], seed: int = 1, shifts: dict[str, Shift] | None = None
) -> list[Night]:
    """Return nights on which nothing changed but noise, and what is shifted by claims' id."""
    random, shifts = rng(seed), shifts or {}
    return [
        night(i, *(made.night(random, shifts.get(made.id, lambda _: 0.0)(i)) for made in claims))
        for i in range(count)
    ]


def night(number: int, *claims: Claim, **changes: Any) -> Night:
    """Return one night, dated by its number."""
    fields: dict[str, Any] = {
        "version": 2,
        "date": FIRST + timedelta(days=number),
        "git": "abc",
        "provenance": {"replay": SETTING, "gpu": SETTING},
        "claims": claims,
    }
    return Night(**fields | changes)


def judged(history: Sequence[Night]) -> list[list[Judgement]]:
    """Return what the gate says of each night, knowing those before."""
    return [gate.judge(tonight, history[:i]) for i, tonight in enumerate(history)]


def alarmed(judgements: Sequence[Judgement]) -> dict[gate.Key, list[gate.Kind]]:
    """Return the kinds of alarms of the claims that raise any."""
    return {
        judgement.claim.key: [alarm.kind for alarm in judgement.alarms]
        for judgement in judgements
        if judgement.alarms
    }


def nights_to_find(changed: Made, shift: Shift, seed: int, most: int = 60) -> float:
    """Return how many nights it takes until a claim raises an alarm that is shifted from then on.

    It is one of all the claims made here, after 60 steady nights; infinite if it takes longer than
    ``most``.
    """
    steady = 60
    others = [made for made in CLAIMS if made.key != changed.key]
    made = nights(steady + most, [changed, *others], seed)
    random = rng(seed)
    for i in range(most):
        tonight, history = made[steady + i], made[: steady + i]
        shifted = changed.night(random, shift(i + 1))
        made[steady + i] = tonight = night(steady + i, shifted, *tonight.claims[1:])
        if changed.key in alarmed(gate.judge(tonight, history)):
            return i + 1
    return math.inf


def _main(years: int) -> None:
    """Print what the gate's docstring states: alarms of steady years, and how changes are found."""
    kinds: Counter[str] = Counter()
    alarming = 0
    for seed in range(years):
        found = [alarmed(judgements) for judgements in judged(nights(365, CLAIMS, seed))]
        kinds.update(f"{' '.join(key)}: {kind}" for n in found for key in n for kind in n[key])
        alarming += any(found)
        print(f"{seed + 1} steady years: {alarming} with an alarm; {dict(kinds)}", flush=True)
    worst = replace(C2, id="W", truth=(-6.0,), paper=(-6.0,), common=1.0)
    for text, claim, shift in _changes(worst):
        taken = sorted(nights_to_find(claim, shift, seed) for seed in range(years))
        at_once = sum(nights == 1 for nights in taken) / years
        low, median, high = (taken[int(q * years)] for q in (0.05, 0.5, 0.95))
        print(f"{text}: {median:g} nights ({low:g} to {high:g}), at once in {at_once:.0%}")


def _changes(ttft: Made) -> list[tuple[str, Made, Shift]]:
    return [
        *((f"TTFT at once by {by} %", ttft, _step(by)) for by in (2, 3, 4, 6, 9, 12)),
        *((f"TTFT by {by} % a night", ttft, _slope(by)) for by in (0.05, 0.1, 0.2)),
        *((f"hit rate at once by {by} points", C1, _step(by)) for by in (-0.6, -2, -5.2)),
        *((f"hit rate by {by} points a night", C1, _slope(by)) for by in (-0.02, -0.1)),
    ]


def _step(by: float) -> Shift:
    return lambda _: by


def _slope(by: float) -> Shift:
    return lambda night: by * night


if __name__ == "__main__":
    _main(int(sys.argv[1]))
