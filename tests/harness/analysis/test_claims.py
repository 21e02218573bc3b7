import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from support.results import experiment, measured, open_loop, record

from harness.analysis import claims, comparisons, costmodel, noise
from harness.analysis.claims import Claim, Evidence, Measured, Point
from harness.analysis.results import Results
from harness.analysis.stats import Estimate
from harness.cell import CellSpec, OpenLoop
from harness.errors import HarnessError
from harness.measure.records import RequestRecord

_COUNT = 256
_SIZES = [50_000, 100_000]
_GRID = experiment(cache_tokens=_SIZES, loads=[{"mode": "batch", "batch_size": 1}])
_AGAIN = _GRID | {"policies": ["lru"], "repeats": 2}
_NO_HISTORY = noise.read(None)
# Points of hit rate that ARC has more than LRU, about the paper's at these sizes.
_GAIN = 9


def _made(
    share: float = 1.0,
    gain: float = _GAIN,
    spread: float = 0.02,
    own_cost: float = 0.0,
    day: int = 0,
) -> Callable[[CellSpec], Any]:
    """Return cells whose TTFT is a line: the paper's, but for the share of its effect.

    Args:
        share: Of the paper's effect at these hit rates.
        gain: Points of hit rate that ARC has more than LRU.
        spread: Standard deviation of the share from engine to engine.
        own_cost: How much slower ARC is at equal hits, a fraction.
        day: Another run has other noise.

    """
    model = costmodel.of_paper("docqa-quality")
    assert model is not None

    def made(spec: CellSpec) -> list[RequestRecord]:
        is_arc = spec.policy == "arc"
        # All cells of a seed have the same requests; each engine has a day of its own.
        rng = np.random.default_rng(spec.seed)
        of_engine = np.random.default_rng([day, spec.seed, spec.repeat, is_arc, spec.cache_tokens])
        hits = rng.integers(20, 40, _COUNT)
        mean = hits.mean() / 100
        if is_arc:
            # A third of the requests.
            hits = hits + 3 * gain * rng.permutation(np.arange(_COUNT) % 3 == 0)
        saved = model.saved_ms * (share + spread * of_engine.normal())
        ttft = model.ttft_ms(mean) - saved * (hits / 100 - mean)
        ttft = ttft * (1 + own_cost * is_arc) * of_engine.normal(1, 0.002, _COUNT)
        # What is sent together comes together.
        size = getattr(spec.load, "batch_size", 1)
        ttft = np.repeat(ttft.reshape(-1, size).mean(axis=1), size)
        return [record(i, 5000 * i, ttft[i], cached_tokens=int(hits[i])) for i in range(_COUNT)]

    return made


def _judged(
    results: Results, name: str, tier: str, quantity: str, history: pd.DataFrame = _NO_HISTORY
) -> dict[str, Any]:
    (row,) = (
        row
        for row in claims.judge(results, history)
        if (row["id"], row["tier"], row["quantity"]) == (name, tier, quantity)
    )
    return row


def test_claims_are_those_of_the_paper_and_each_has_what_decides() -> None:
    found = claims.read()
    assert {claim.id for claim in found if claim.source == "paper"} == {
        f"C{number}" for number in range(1, 7)
    }
    for claim in found:
        if claim.margins:
            # Of values that the paper has, and of the claimed direction.
            papers = claims._papers(claim)
            assert papers
            assert all((value > 0) == (claim.expect == "up") for value in papers.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"expect": "flat"},
        {"tolerance": 1},
        {"margins": (1.1, 1.5)},
        {"margins": (0.5, 0.9)},
        {"margins": (0, 1.5)},
        {"expect": "at-least"},
        {"least": (1,)},
        {"expect": "at-least", "least": (1, 2), "at": (50,)},
    ],
)
def test_claims_that_nothing_could_decide_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="X: "):
        Claim.model_validate(_CLAIM.model_dump() | changes)


def test_papers_gains_are_those_that_it_states() -> None:
    gains = {
        (claim.id, claim.workload, claim.quantity): claims._papers(claim)
        for claim in claims.read()
        if claim.source == "paper" and claim.expect != "flat"
    }
    hit_rate = gains["C1", "docqa-quality", "hit_rate"]
    assert max(hit_rate.values()) == pytest.approx(10.8, abs=0.1)
    assert max(hit_rate, key=hit_rate.__getitem__) == 50
    assert min(gains["C2", "docqa-quality", "ttft"].values()) == pytest.approx(-12.6, abs=0.2)
    assert max(gains["C3", "docqa-wikiqa", "hit_rate"].values()) == pytest.approx(7.8, abs=0.2)
    trace = gains["C4", "conversation-bailian-a", "hit_rate"]
    assert max(trace.values()) == pytest.approx(2.1, abs=0.2)
    assert min(gains["C4", "conversation-bailian-a", "ttft"].values()) == pytest.approx(-2, abs=0.1)
    # At caches for as many of its shorter prompts.
    stand_in = gains["C4", "conversation-short", "hit_rate"]
    assert (stand_in[7], stand_in[24]) == (trace[30], trace[100])
    assert gains["C5", "docqa-quality", "ttft"][1] == pytest.approx(-6)


@pytest.mark.parametrize(
    ("made", "verdicts"),
    [
        ({"share": 1}, ("reproduced",)),
        ({"share": 0.35}, ("smaller",)),
        ({"share": 1.9}, ("larger",)),
        ({"share": 0}, ("refuted", "undecided")),
        ({"share": -1}, ("refuted",)),
        # However near the paper's effect it is.
        ({"share": 1, "spread": 1.0}, ("undecided",)),
        # Fewer hits, and as the paper's line has it, a higher TTFT.
        ({"share": 1, "gain": -6}, ("refuted",)),
        ({"share": 1, "gain": 0}, ("refuted", "undecided")),
    ],
    ids=str,
)
def test_ttft_of_a_known_line_and_noise_has_the_verdict_that_is_true(
    root: Path, tmp_path: Path, made: dict[str, float], verdicts: set[str]
) -> None:
    results = measured(root, tmp_path, _made(**made), _GRID, _AGAIN)
    row = _judged(results, "C2", "cpu", "ttft")
    assert row["verdict"] in verdicts, row["reason"]


def test_row_has_all_that_is_known(root: Path, tmp_path: Path) -> None:
    results = measured(root, tmp_path, _made(), _GRID, _AGAIN)
    row = _judged(results, "C2", "cpu", "ttft")
    model = costmodel.of_paper("docqa-quality")
    assert model is not None
    cells = results.cells.set_index("policy")["hit_rate"]
    lru, arc = cells["lru"].mean(), cells["arc"].mean()
    # Against the paper's line at our hit rates, not at its own.
    expected = 100 * (model.ttft_ms(arc) / model.ttft_ms(lru) - 1)
    assert row["paper"] == pytest.approx(expected)
    assert row["share"] == pytest.approx(row["ours"] / row["paper"])
    assert row["share"] == pytest.approx(1, abs=0.06)
    assert row["ci95"][0] < row["ours"] < row["ci95"][1]
    assert row["share_ci95"] == pytest.approx(sorted(end / row["paper"] for end in row["ci95"]))
    # Two comparisons of three engines, which share their noise.
    assert row["noise_df"] == 4
    assert row["noise"] > 0
    assert row["power"] > 0.99
    assert row["wrong_half"] < 0.01
    assert row["wrong_none"] < 0.01
    assert row["workload_ci95"] is None
    assert [point["at"] for point in row["points"]] == ["50k tokens", "100k tokens"]
    for point in row["points"]:
        assert point["plain"] == pytest.approx(expected, abs=1)
        assert point["did"] == pytest.approx(expected, abs=1)
        assert point["equal_hits"] == pytest.approx(0, abs=0.5)
        assert point["allowed"] == pytest.approx([1.5 * point["paper"], 0.67 * point["paper"]])


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(9, "reproduced"), (3, "smaller"), (16, "larger"), (0, "refuted"), (-6, "refuted")],
)
def test_hit_rates_are_exact(root: Path, tmp_path: Path, gain: int, verdict: str) -> None:
    row = _judged(
        measured(root, tmp_path, _made(gain=gain), _GRID, _AGAIN), "C1", "cpu", "hit_rate"
    )
    assert row["verdict"] == verdict, row["reason"]
    assert row["ours"] == pytest.approx(gain, abs=0.3)
    assert row["points"][0]["paper"] == pytest.approx(10.8, abs=0.1)
    assert row["ci95"] is None
    assert row["share_ci95"] is None
    assert row["noise"] is None
    assert (row["power"], row["wrong_half"], row["wrong_none"]) == (1, 0, 0)


def test_equal_policies_reproduce_nothing(root: Path, tmp_path: Path) -> None:
    results = measured(root, tmp_path, _made(gain=0), _GRID, _AGAIN)
    for row in claims.judge(results, _NO_HISTORY):
        assert row["verdict"] in ("refuted", "undecided", "not run"), row


def test_own_cost_that_stands_out_leaves_it_undecided(root: Path, tmp_path: Path) -> None:
    grid, again = (
        {**one, "cache_tokens": [50_000, 100_000, 150_000, 200_000]} for one in (_GRID, _AGAIN)
    )
    quiet = measured(root, tmp_path / "quiet", _made(spread=0), grid, again)
    assert _judged(quiet, "C2", "cpu", "ttft")["verdict"] == "reproduced"
    costly = measured(root, tmp_path / "costly", _made(spread=0, own_cost=0.05), grid, again)
    row = _judged(costly, "C2", "cpu", "ttft")
    assert row["verdict"] == "undecided"
    assert "at equal hits ARC is 5." in row["reason"] or "at equal hits ARC is 4." in row["reason"]
    assert "slower than LRU" in row["reason"]
    # Hits are what they are.
    assert _judged(costly, "C1", "cpu", "hit_rate")["verdict"] != "undecided"


def test_what_was_measured_once_is_undecided_until_other_runs_tell(
    root: Path, tmp_path: Path
) -> None:
    grid = _GRID | {"cache_tokens": [50_000]}
    row = _judged(measured(root, tmp_path / "a", _made(), grid), "C2", "cpu", "ttft")
    assert row["verdict"] == "undecided"
    assert "nothing comparable was measured twice" in row["reason"]
    assert (row["ci95"], row["share_ci95"], row["noise"], row["power"]) == (None, None, None, 0)
    assert row["share"] == pytest.approx(1, abs=0.1)
    history = []
    for day in (1, 2, 3):
        other = measured(root, tmp_path / str(day), _made(day=day), grid)
        table = noise.of_run(comparisons.compare(other))
        history.append(table.assign(run=str(day)))
    results = measured(root, tmp_path / "b", _made(), grid)
    told = _judged(results, "C2", "cpu", "ttft", pd.concat(history))
    assert told["verdict"] == "reproduced", told["reason"]
    assert told["noise"] is not None


def test_nothing_is_reproduced_without_results(root: Path, tmp_path: Path) -> None:
    results = measured(root, tmp_path, lambda _: "no network", _GRID)
    for row in claims.judge(results, _NO_HISTORY):
        assert row["verdict"] == "not run"
        assert (row["ours"], row["share"], row["power"]) == (None, None, None)
        assert row["points"] == []
    assert _judged(results, "C1", "cpu", "hit_rate")["reason"] == "Not run: no network."
    assert _judged(results, "C1", "gpu", "hit_rate")["reason"] == "Config cpu has no tier gpu."


def test_claims_on_workloads_that_a_config_does_not_have_are_not_judged(
    root: Path, tmp_path: Path
) -> None:
    found = measured(root, tmp_path, lambda _: "no network", _GRID)
    own = {"docqa-quality": found.config.workloads["docqa-quality"]}
    fewer = found.config.model_copy(update={"workloads": own})
    judged = claims.judge(replace(found, config=fewer), _NO_HISTORY)
    # Nor are those on policies that it does not have.
    of_all = {
        claim.id
        for claim in claims.read()
        if claim.workload == "docqa-quality" and claim.policy == "arc"
    }
    assert {claim["id"] for claim in judged} == of_all
    assert of_all < {claim.id for claim in claims.read()}


def test_points_whose_cells_are_invalid_are_left_out_and_said(root: Path, tmp_path: Path) -> None:
    made = _made()

    def broken(spec: CellSpec) -> Any:
        rows = made(spec)
        if spec.cache_tokens > 5000 and spec.policy == "arc":
            rows = [*rows[:-1], record(_COUNT - 1, 0, 10, status="reset", error="gone")]
        return rows

    row = _judged(measured(root, tmp_path, broken, _GRID, _AGAIN), "C1", "cpu", "hit_rate")
    assert [point["at"] for point in row["points"]] == ["50k tokens"]
    assert row["reason"].endswith(" 1 point left out: invalid cells.")


def test_batch_sizes_are_points_of_their_own(root: Path, tmp_path: Path) -> None:
    loads = [{"mode": "batch-http", "batch_size": size} for size in (1, 8)]
    grid = experiment(cache_tokens=[200_000], loads=loads)
    again = grid | {"policies": ["lru"], "repeats": 2}
    results = measured(root, tmp_path, _made(gain=3), grid, again)
    row = _judged(results, "C5", "cpu", "ttft")
    assert [point["at"] for point in row["points"]] == ["batch size 1", "batch size 8"]
    assert row["verdict"] == "reproduced", row["reason"]
    # Each has noise of its own, of three engines.
    assert 2 < row["noise_df"] <= 4
    hits = _judged(results, "C5", "cpu", "hit_rate")
    assert [point["paper"] for point in hits["points"]] == pytest.approx([3.5, 3.3])
    assert hits["verdict"] == "reproduced"


def test_online_claim_without_a_size_is_judged_by_its_direction(root: Path, tmp_path: Path) -> None:
    grid = experiment(loads=[open_loop(rate, turn_requests=16) for rate in (8, 9)])
    again = grid | {"policies": ["lru"], "repeats": 2}

    def made(effect: float) -> Callable[[CellSpec], Any]:
        def cell(spec: CellSpec) -> list[RequestRecord]:
            is_arc = spec.policy == "arc"
            assert isinstance(spec.load, OpenLoop)
            assert spec.load.request_rate is not None
            rng = np.random.default_rng([spec.repeat, is_arc, int(spec.load.request_rate)])
            ttft = 100 * (1 + effect * is_arc) * rng.normal(1, 0.2, _COUNT)
            return [
                record(i, 50 * i, ttft[i], scheduled_ns=10**9 + 50 * 10**6 * i)
                for i in range(_COUNT)
            ]

        return cell

    lower = _judged(measured(root, tmp_path / "a", made(-0.1), grid, again), "O1", "cpu", "ttft")
    assert lower["verdict"] == "reproduced", lower["reason"]
    assert (lower["paper"], lower["share"], lower["power"]) == (None, None, None)
    assert lower["reason"].startswith("The 99 % interval, -")
    assert lower["points"][0]["plain"] is None
    none = _judged(measured(root, tmp_path / "b", made(0), grid, again), "O1", "cpu", "ttft")
    assert none["verdict"] == "undecided"
    higher = _judged(measured(root, tmp_path / "c", made(0.1), grid, again), "O1", "cpu", "ttft")
    assert higher["verdict"] == "refuted"


def test_requests_at_their_own_times_are_no_point_of_a_rate(root: Path, tmp_path: Path) -> None:
    loads = [open_loop(8), {"mode": "open-loop", "arrivals": "trace"}]
    claim = next(claim for claim in claims.read() if claim.id == "O1")
    claim = claim.model_copy(update={"workload": "conversation-chat"})
    grid = experiment(workload="conversation-chat", cache_tokens=[8000], loads=loads)

    def made(spec: CellSpec) -> list[RequestRecord]:
        return [record(i, 50 * i, 100, scheduled_ns=10**9 + 50 * 10**6 * i) for i in range(32)]

    results = measured(root, tmp_path, made, grid)
    compared = comparisons.compare(results)
    assert len(compared) == 2
    row, _ = claims.judge_compared(results, compared, _NO_HISTORY, [claim])
    assert [point["at"] for point in row["points"]] == ["8 requests/s"]


def test_workload_has_its_interval_from_three_seeds(root: Path, tmp_path: Path) -> None:
    grid = _GRID | {"seeds": [42, 43, 44]}

    def made(spec: CellSpec) -> list[RequestRecord]:
        return list(_made(gain=9 + (spec.seed == 44))(spec))

    row = _judged(measured(root, tmp_path, made, grid), "C1", "cpu", "hit_rate")
    gains = [point["ours"] for point in row["points"]]
    assert gains == pytest.approx([9.4, 9.4], abs=0.2)
    # 9, 9, and 10 points: a standard error of 0.333, t(0.975, 2) = 4.303.
    low, high = row["workload_ci95"]
    assert (high - low) / 2 == pytest.approx(4.303 * 0.333, rel=0.02)
    # The verdict needs both, though the measurement repeats exactly.
    assert row["ci95"] is None
    assert row["share_ci95"] == pytest.approx([low / row["paper"], high / row["paper"]])
    assert row["verdict"] == "reproduced"
    two = measured(root, tmp_path / "two", made, _GRID | {"seeds": [42, 43]})
    assert _judged(two, "C1", "cpu", "hit_rate")["workload_ci95"] is None


def test_conversations_that_stand_in_for_the_trace_are_held_against_its_points(
    root: Path, tmp_path: Path
) -> None:
    grid = _GRID | {"workload": "conversation-short", "cache_tokens": [7200, 24_000]}

    def made(spec: CellSpec) -> list[RequestRecord]:
        """Make 32 conversations of eight turns, in some of which ARC finds more."""
        more = np.random.default_rng(1).choice([0, 4], 32) * (spec.policy == "arc")
        return [
            record(
                i, 500 * i, 50, cached_tokens=int(20 + more[i % 32]), session=i % 32, turn=i // 32
            )
            for i in range(_COUNT)
        ]

    results = measured(root, tmp_path, made, grid, base="seeds")
    row = _judged(results, "C4", "cpu", "hit_rate")
    assert [point["at"] for point in row["points"]] == ["7k tokens", "24k tokens"]
    assert [point["paper"] for point in row["points"]] == pytest.approx([2.05, 1.3])
    mean = np.random.default_rng(1).choice([0, 4], 32).mean()
    assert row["ours"] == pytest.approx(mean)
    # What other conversations would have: of 32 with a standard deviation of about two.
    low, high = row["workload_ci95"]
    assert low < mean < high
    assert high - low == pytest.approx(2 * 2.04 * 2 / 32**0.5, rel=0.15)
    assert row["share_ci95"] == pytest.approx([low / row["paper"], high / row["paper"]])


_CLAIM = Claim(
    id="X",
    claim="x",
    source="paper",
    quantity="hit_rate",
    expect="up",
    workload="w",
    margins=(0.67, 1.5),
    tiers={"cpu": Evidence(figure="f")},
)
_FLAT = Claim.model_validate(
    _CLAIM.model_dump() | {"expect": "flat", "margins": None, "tolerance": 1}
)
_SIZELESS = _CLAIM.model_copy(update={"margins": None})


def _found(effect: Estimate, paper: float | None = 10, **more: Any) -> Measured:
    return Measured([Point("here", effect, paper)], effect, paper, **more)


def test_verdict_needs_what_the_two_intervals_cover_together() -> None:
    exact, wide = Estimate(10), Estimate(9, 1, 10)
    assert claims.decide(_CLAIM, _found(exact))[0] == "reproduced"
    verdict, reason, share, _ = claims.decide(_CLAIM, _found(exact, workload=wide))
    assert verdict == "reproduced"
    assert share == pytest.approx((1, 0.677, 1.123), abs=1e-3)
    assert reason == "The share of the paper's effect, 1.00 [0.68, 1.12], lies within 0.67 to 1.5."
    wider = Estimate(9, 1.1, 10)
    assert claims.decide(_CLAIM, _found(exact, workload=wider))[0] == "undecided"
    assert claims.decide(_CLAIM, _found(Estimate(10, 1.7, 10), workload=exact))[0] == "undecided"


@pytest.mark.parametrize(
    ("effect", "workload", "what"),
    [
        (Estimate(10, 3), None, "4 times as many requests or runs"),
        (Estimate(10, 0.1), Estimate(10, 3), "4 times as many seeds"),
    ],
)
def test_undecided_says_what_it_would_take(
    effect: Estimate, workload: Estimate | None, what: str
) -> None:
    verdict, reason, _, power = claims.decide(_CLAIM, _found(effect, workload=workload))
    assert verdict == "undecided"
    # 5.88 on either side, 3.3 to the nearer margin: a square of 3.17.
    assert what in reason
    assert power is not None
    assert power.full < 0.5


def test_direction_without_a_size_is_of_99_percent() -> None:
    # 2.3 standard errors: beyond 95 percent, not beyond 99.
    assert claims.decide(_SIZELESS, _found(Estimate(2.3, 1), None))[0] == "undecided"
    assert claims.decide(_SIZELESS, _found(Estimate(2.7, 1), None))[0] == "reproduced"
    assert claims.decide(_SIZELESS, _found(Estimate(-2.7, 1), None))[0] == "refuted"
    verdict, reason, share, power = claims.decide(_SIZELESS, _found(Estimate(2), None))
    assert (verdict, share, power) == ("reproduced", None, None)
    assert reason == "The effect, +2.0 points, lies on the claimed side of none."


def test_effect_that_is_expected_the_other_way_has_no_share() -> None:
    """Else, a loss as large as is to be expected of fewer hits were the claim come true."""
    verdict, _, share, _ = claims.decide(_CLAIM, _found(Estimate(-9, 0.1), -10))
    assert (verdict, share) == ("refuted", None)
    assert claims.decide(_CLAIM, _found(Estimate(0.0), 0.0))[0] == "refuted"


def test_noise_that_nobody_knows_decides_nothing() -> None:
    for claim in (_CLAIM, _SIZELESS, _FLAT):
        verdict, reason, _, _ = claims.decide(claim, _found(Estimate(10, math.nan, 0)))
        assert verdict == "undecided"
        assert "How large noise is is not known" in reason
        assert "inf" not in reason


def test_own_cost_within_noise_changes_nothing() -> None:
    effect = Estimate(10, 0.1)
    for cost in (None, Estimate(3, 1), Estimate(3, math.nan, 0)):
        assert claims.decide(_CLAIM, _found(effect, own_cost=cost))[0] == "reproduced"
    verdict, reason, _, _ = claims.decide(_CLAIM, _found(effect, own_cost=Estimate(-4, 1)))
    assert verdict == "undecided"
    assert "at equal hits ARC is 4.0 % faster than LRU" in reason


def test_flat_is_within_the_tolerance_at_every_point() -> None:
    near, far, wide = Estimate(0.5, 0.1), Estimate(-2, 0.1), Estimate(0.5, 1)
    for others, verdict, reason in (
        ([], "reproduced", "Within 1 point of none at every point."),
        ([Point("there", far)], "refuted", "Further than 1 point of none at there."),
        ([Point("there", wide)], "undecided", "The intervals are too wide to say"),
    ):
        found = Measured([Point("here", near), *others], near, None)
        said = claims.decide(_FLAT, found)
        assert said[0] == verdict
        assert said[1].startswith(reason)


_LEAST = Claim.model_validate(
    _CLAIM.model_dump() | {"expect": "at-least", "margins": None, "least": (-0.3,)}
)


def _at_least(at: str, gain: float, error: float = 0, least: float = -0.3) -> Point:
    return Point(at, Estimate(gain), drawn=Estimate(gain, error, 2), least=least)


@pytest.mark.parametrize(
    ("points", "verdict", "reason"),
    [
        (
            [_at_least("50k", 1.0, 0.1), _at_least("100k", -0.2)],
            "reproduced",
            "At every point at least as much; nearest at 100k: -0.20 points, of at least -0.3.",
        ),
        (
            # 4.303 standard errors are 0.43.
            [_at_least("50k", 1.0, 0.1), _at_least("100k", 0.0, 0.1)],
            "undecided",
            "The interval has less, and more, at 100k: +0.00 [-0.43, +0.43] points, of at least",
        ),
        (
            [_at_least("50k", 1.0), _at_least("100k", 0.0, 0.1), _at_least("200k", -0.9, 0.1)],
            "refuted",
            "It is less at 200k: -0.90 [-1.33, -0.47] points, of at least -0.3.",
        ),
        ([_at_least("50k", 1.6, least=1.5)], "reproduced", "It is at 50k: +1.60 points, of"),
        ([_at_least("50k", 1.4, least=1.5)], "refuted", "It is less at 50k"),
    ],
)
def test_never_less_is_judged_at_every_point(
    points: list[Point], verdict: str, reason: str
) -> None:
    # However much the mean is.
    said = claims.decide(_LEAST, Measured(points, Estimate(10), None))
    assert said[0] == verdict
    assert said[1].startswith(reason)
    assert "over seeds" in said[1]
    assert said[2:] == (None, None)


def _past_the_paper(root: Path, tmp_path: Path, gains: dict[int, list[float]]) -> Results:
    """Return replays in which ALRFU has so many points more than ARC, by size and seed."""
    grid = experiment(
        tier="replay",
        policies=["lru", "arc", "alrfu"],
        cache_tokens=list(gains),
        seeds=[42, 43, 44],
    )

    def made(spec: CellSpec) -> list[RequestRecord]:
        more = gains[spec.cache_tokens][spec.seed - 42] if spec.policy == "alrfu" else 0
        return [
            record(i, i, 1, prompt_tokens=1000, cached_tokens=300 + round(10 * more))
            for i in range(4)
        ]

    found = measured(root, tmp_path, made, grid, base="policies")
    share = {"lru": 0.0, "arc": 0.1, "alrfu": 0.0}
    return replace(found, cells=found.cells.assign(unreachable=found.cells["policy"].map(share)))


def test_claims_past_the_paper_are_on_a_policy_and_what_it_is_held_against(
    root: Path, tmp_path: Path
) -> None:
    gains = {50_000: [2.4, 2.5, 2.6], 100_000: [0.0, 0.1, 0.1]}
    results = _past_the_paper(root, tmp_path, gains)
    at_50k = _judged(results, "P3a", "replay", "hit_rate")
    assert at_50k["verdict"] == "reproduced", at_50k["reason"]
    (point,) = at_50k["points"]
    assert point["ours"] == pytest.approx(2.5)
    # t(0.975, 2) = 4.303, of a standard error of 0.0577.
    assert point["ci95"] == pytest.approx([2.5 - 0.248, 2.5 + 0.248], abs=0.001)
    assert _judged(results, "P3b", "replay", "hit_rate")["verdict"] == "reproduced"
    none = _judged(results, "P4a", "replay", "unreachable")
    assert (none["verdict"], none["ours"]) == ("reproduced", 0)
    some = replace(results, cells=results.cells.assign(unreachable=0.001))
    row = _judged(some, "P4a", "replay", "unreachable")
    assert (row["verdict"], row["ours"]) == ("refuted", pytest.approx(0.1))
    before = replace(results, cells=results.cells.assign(unreachable=math.nan))
    row = _judged(before, "P4a", "replay", "unreachable")
    assert (row["verdict"], row["reason"]) == ("not run", "It was not counted in these cells.")


def test_one_size_with_too_little_is_enough_against_a_claim_of_all(
    root: Path, tmp_path: Path
) -> None:
    gains = {50_000: [1.0, 1.1, 1.2], 100_000: [-0.5, -0.5, -0.4], 200_000: [9, 9, 9]}
    results = _past_the_paper(root, tmp_path, gains)
    assert _judged(results, "P3a", "replay", "hit_rate")["verdict"] == "refuted"
    row = _judged(results, "P3b", "replay", "hit_rate")
    assert row["verdict"] == "refuted"
    assert row["reason"].startswith("It is less at 100k tokens: -0.47 ")


def test_ttft_of_other_pairs_is_through_hits_too(root: Path, tmp_path: Path) -> None:
    grid = _GRID | {"policies": ["lru", "arc", "alrfu"], "cache_tokens": [50_000, 100_000]}
    made = _made()

    def shifted(spec: CellSpec) -> Any:
        # ALRFU is to ARC what ARC is to LRU elsewhere.
        policy = "arc" if spec.policy == "alrfu" else "lru"
        repeat = spec.repeat + (spec.policy == "arc")
        return made(spec.model_copy(update={"policy": policy, "repeat": repeat}))

    again = grid | {"policies": ["arc"], "repeats": 2}
    results = measured(root, tmp_path, shifted, grid, again, base="policies")
    row = _judged(results, "P6", "cpu", "ttft")
    assert [point["at"] for point in row["points"]] == ["50k tokens"]
    assert row["ours"] == pytest.approx(-10, abs=3)
    assert row["verdict"] == "reproduced", row["reason"]


def _replay(
    root: Path,
    tmp_path: Path,
    t1: Callable[[np.ndarray], np.ndarray],
    *more: dict[str, Any],
    requests: int = 3072,
) -> Results:
    """Return a replay under ARC at two sizes with a course of T1's share of the cache."""
    sizes = [50_000, 250_000, 300_000]
    grid = experiment(tier="replay", policies=["arc"], cache_tokens=sizes)
    results = measured(root, tmp_path, lambda spec: [record(0, 0, 1)], grid, *more)
    for name, spec in results.config.cells.items():
        rising = spec.cache_tokens / 300_000
        share = 0.2 * rising + t1(np.arange(requests))
        folder = tmp_path / "cells" / f"replay-docqa-quality-s{spec.seed}"
        state = pd.DataFrame({"request": range(requests), "t1": share * spec.cache_blocks})
        state.to_parquet(folder / name / "telemetry.parquet")
    return results


def test_median_of_t1_is_the_papers_or_only_rises(root: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    results = _replay(root, tmp_path, lambda at: 0.15 + rng.normal(0, 0.01, len(at)))
    row = _judged(results, "C6", "replay", "t1_median")
    # The paper shows no 250k; 18 and 35 percent at the others.
    assert [(point["at"], point["paper"]) for point in row["points"]] == [
        ("50k tokens", pytest.approx(18)),
        ("300k tokens", pytest.approx(35)),
    ]
    assert row["verdict"] == "reproduced", row["reason"]
    assert row["paper"] == pytest.approx(35 - 18)
    assert row["ours"] == pytest.approx(100 * 0.2 * 250 / 300, abs=0.2)


def test_swing_with_the_windows_is_told_from_noise(root: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    swinging = _replay(
        root,
        tmp_path / "a",
        lambda at: 0.3 + 0.1 * np.sin(at / 512 * 2 * np.pi) + rng.normal(0, 0.05, len(at)),
    )
    assert _judged(swinging, "C6", "replay", "t1_swing")["verdict"] == "reproduced"
    random = _replay(root, tmp_path / "b", lambda at: rng.uniform(0.2, 0.4, len(at)))
    assert _judged(random, "C6", "replay", "t1_swing")["verdict"] == "undecided"
    still = _replay(root, tmp_path / "c", lambda at: np.full(len(at), 0.5))
    assert _judged(still, "C6", "replay", "t1_swing")["verdict"] == "refuted"


def test_swing_of_one_pair_of_windows_is_undecided(root: Path, tmp_path: Path) -> None:
    # The first, on a cold cache, is left out.
    results = _replay(root, tmp_path, lambda at: np.sin(at / 512 * 2 * np.pi), requests=3 * 512)
    row = _judged(results, "C6", "replay", "t1_swing")
    assert row["ours"] == pytest.approx(1)
    assert row["verdict"] == "undecided"


def test_sizes_are_compared_by_the_seeds_that_all_have(root: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    results = _replay(
        root,
        tmp_path,
        lambda at: 0.15 + rng.normal(0, 0.01, len(at)),
        experiment(tier="replay", policies=["arc"], cache_tokens=[50_000], seeds=[42, 43]),
    )
    assert len(_judged(results, "C6", "replay", "t1_median")["points"]) == 2
    assert _judged(results, "C6", "replay", "t1_swing")["verdict"] == "undecided"


def test_written_whole_and_read_again(tmp_path: Path) -> None:
    judged: list[dict[str, Any]] = [{"id": "C1", "ours": None}]
    claims.write(judged, tmp_path / "claims.json")
    assert claims.load(tmp_path / "claims.json") == judged
    assert [path.name for path in tmp_path.iterdir()] == ["claims.json"]
    (tmp_path / "claims.json").write_text("{")
    with pytest.raises(HarnessError, match=r"claims\.json: not readable"):
        claims.load(tmp_path / "claims.json")
