"""How often the verdicts are right: runs are made up whose truth is known, and judged.

A made-up run has the cells of the shipped one (``reference/cpu``), with their requests and hits.
Their times are made anew, so that through hits ARC has all, half or none of the effect that is
claimed (the *truth*). On that lie, at each batch, a deviation drawn from those of LRU's cells; on
each engine's speed and each run's effect a normal deviation, as large as the noise of the shipped
runs (``reference/noise.csv``) leaves to explain. They are judged by the functions that judge real
ones, from the fit of the line on, each with three more made-up runs for a history.

Hit rates are made up by the same truth; they have next to no noise. Claims that there is no effect,
and those of T1's share, which are of one exact replay, are not here; nor are those whose interval
is of real conversations, which are not made up.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis import claims, comparisons, costline, noise
from harness.analysis import results as analysis_results
from harness.analysis.claims import Claim
from harness.analysis.comparisons import PAPERS, Comparison
from harness.analysis.costline import Effect
from harness.analysis.noise import Noise
from harness.analysis.results import Results
from harness.analysis.stats import Estimate
from harness.bench import results
from harness.bench.results import Result
from harness.cell import Mode, Tier
from harness.errors import HarnessError

_REFERENCE = Path("reference")
_RUNS = 200
_PILOT = 40
_HISTORY = 3
_SEED = 42
_TRUTHS = {"none": 0.0, "half": 0.5, "all": 1.0}
# id and quantity of what a run has to decide, and of what it has to tell half from all.
_DECIDED = {("C1", "hit_rate"), ("C2", "ttft"), ("C5", "ttft")}
_TOLD_FROM_HALF = {("C2", "ttft"), ("C5", "ttft")}

_Array = npt.NDArray[np.float64]


def run(build: Path, output: Path) -> list[Result]:
    """Make up runs, judge them, and write how often a verdict is wrong.

    Args:
        build: Not needed.
        output: JSON file to write.

    Raises:
        HarnessError: if there are no reference results.

    """
    folder = _REFERENCE / "cpu"
    if not folder.is_dir():
        raise HarnessError(f"{folder}: not there; run this in the project's folder")
    found = analysis_results.read(folder / "config.yaml", folder)
    measured = simulate(found, noise.read(_REFERENCE / "noise.csv"), _RUNS)
    results.write(output, measured)
    return measured


def simulate(found: Results, history: pd.DataFrame, runs: int) -> list[Result]:
    """Return how often verdicts on made-up runs are wrong, in percent.

    Args:
        found: What the runs are made of.
        history: The noise of runs like that.
        runs: How many to make up of each truth.

    """
    compared = comparisons.compare(found)
    known = noise.Noise(compared, history)
    measured: list[Result] = []
    for claim in claims.on(found):
        if claim.expect not in ("up", "down") or claim.pair != PAPERS:
            continue
        if claim.quantity not in ("hit_rate", "ttft"):
            continue
        for tier, where in claim.tiers.items():
            one = claim.model_copy(update={"tiers": {tier: where}})
            own = [each for each in compared if _is_of(each, claim, tier, where.mode)]
            # None on a workload that the config has not.
            for row in claims.judge_compared(found, own, history, [one]):
                if row["verdict"] == "not run" or row["workload_ci95"] is not None:
                    continue
                models = [_model(found, claim, each, known) for each in own]
                verdicts = {
                    truth: _verdicts(found, one, models, share, runs)
                    for truth, share in _TRUTHS.items()
                }
                measured += _results(claim, tier, verdicts)
    return measured


def _is_of(one: Comparison, claim: Claim, tier: Tier, mode: Mode) -> bool:
    return (one.tier, one.workload, one.mode) == (tier, claim.workload, mode)


@dataclass(frozen=True)
class _Model:
    """A comparison of which runs are made up.

    ``claimed`` is the effect at its full size, in the claim's unit, ``known`` what was measured,
    with its error; ``between_runs`` is the standard deviation of a run's effect that has no other
    source, ``drift`` that of the logarithm of an engine's speed. Of batches, ``work`` has that of
    each cell, ``costs`` what the line says of it but for its constant, and ``deviations`` LRU's
    batches' from the line, as shares.
    """

    comparison: Comparison
    claimed: float
    known: Estimate
    between_runs: float
    drift: float = 0.0
    work: Sequence[pd.DataFrame] = ()
    num_base: int = 0
    costs: Sequence[_Array] = ()
    deviations: _Array = field(default_factory=lambda: np.zeros(1))

    def made(self, truth: float, number: int, rng: np.random.Generator) -> Comparison:
        """Return it in a made-up run, in which so much of the effect is true."""
        of_run = truth * self.claimed + rng.normal(0, self.between_runs)
        one = replace(self.comparison, measured=f"made-up {number}")
        if self.work:
            return replace(one, effect=self.effect(of_run, rng))
        if one.online is not None:
            seen = self.between_runs * (rng.chisquare(self.known.df) / self.known.df) ** 0.5
            return replace(one, online=Estimate(of_run, seen, self.known.df))
        return replace(one, gains=(of_run,) * len(one.gains))

    def effect(self, percent: float, rng: np.random.Generator) -> Effect:
        """Return what cells show whose line has an effect of so many percent through hits."""
        base = np.mean(self.costs[: self.num_base])
        saved = np.mean(self.costs[self.num_base :]) - base
        cells = []
        for work, cost in zip(self.work, self.costs, strict=True):
            ttft = 1 + percent / 100 * (cost - base) / saved
            of_batch = 1 + rng.choice(self.deviations, work["batch"].nunique())
            ttft = 100 * ttft * of_batch[work["batch"]] * np.exp(rng.normal(0, self.drift))
            cells.append(work.assign(ttft_ms=ttft))
        effect = costline.compare(cells[: self.num_base], cells[self.num_base :])
        assert effect is not None
        return effect


def _model(found: Results, claim: Claim, one: Comparison, known: Noise) -> _Model:
    measured = known.of(one, "ttft" if claim.quantity == "ttft" else "hit_rate")
    of_paper = claims.claimed(claim, one)
    size = measured.value if of_paper is None else of_paper
    error = 0.0 if math.isnan(measured.error) else measured.error
    if claim.quantity != "ttft" or one.effect is None:
        return _Model(one, size, measured, error)
    num_base = len(one.base)
    work = [
        costline.work(found.requests(found.cell(name)), int(one.batch_size or 1))
        for name in (*one.base, *one.policy)
    ]
    line = costline.fit(work)
    of_base = pd.concat([own.assign(cell=i) for i, own in enumerate(work[:num_base])])
    of_base = of_base.assign(line=costline.terms(of_base) @ line)
    batches = of_base.groupby(["cell", "batch"])[["ttft_ms", "line"]].mean()
    deviations = (batches["ttft_ms"] / batches["line"] - 1).to_numpy(float)
    cost = known.of(one, "own_cost").error
    model = _Model(
        comparison=one,
        claimed=size,
        known=measured,
        between_runs=0.0,
        drift=0.0 if math.isnan(cost) else cost / 100 / math.sqrt(1 + 1 / num_base),
        work=work,
        num_base=num_base,
        costs=[costline.terms(own)[:, 1:] @ line[1:] for own in work],
        deviations=deviations - deviations.mean(),
    )
    # What deviations make by themselves is not to be counted twice.
    rng = np.random.default_rng(_SEED)
    values = [model.effect(size, rng).value for _ in range(_PILOT)]
    by_deviations = float(np.var(values, ddof=1))
    return replace(model, between_runs=math.sqrt(max(0.0, error**2 - by_deviations)))


def _verdicts(
    found: Results, claim: Claim, models: Sequence[_Model], truth: float, runs: int
) -> Mapping[str, float]:
    """Return what share of so many made-up runs has which verdict on a claim."""
    if not any(one.between_runs or one.work for one in models):
        # All are the same.
        runs = 1
    rng = np.random.default_rng(_SEED)
    made = [[one.made(truth, number, rng) for one in models] for number in range(runs + _HISTORY)]
    tables = [noise.of_run(compared) for compared in made]
    verdicts: Counter[str] = Counter()
    for number in range(runs):
        before = pd.concat(tables[number + 1 : number + 1 + _HISTORY])
        (row,) = claims.judge_compared(found, made[number], before, [claim])
        verdicts[row["verdict"]] += 1
    return {verdict: count / runs for verdict, count in verdicts.items()}


def _results(
    claim: Claim, tier: Tier, verdicts: Mapping[str, Mapping[str, float]]
) -> Iterable[Result]:
    name, key = f"{claim.id} {tier} {claim.quantity}", (claim.id, claim.quantity)

    def missed(truth: str, verdict: str) -> float:
        return 100 * (1 - verdicts[truth].get(verdict, 0.0))

    unit = "% of runs"
    yield Result(f"{name}, no effect: reproduced", 100 - missed("none", "reproduced"), unit, 1)
    if claim.margins is not None:
        most = 10 if key in _DECIDED else None
        yield Result(f"{name}, all of it: not reproduced", missed("all", "reproduced"), unit, most)
        told = key in _TOLD_FROM_HALF
        wrong = 100 - missed("half", "reproduced")
        yield Result(f"{name}, half of it: reproduced", wrong, unit, 5 if told else None)
        off = missed("half", "smaller")
        yield Result(f"{name}, half of it: not smaller", off, unit, 20 if told else None)
