from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.results import experiment, measured, record

from harness.analysis import claims
from harness.analysis.claims import Claim, Evidence, Measured, Point
from harness.analysis.results import Results
from harness.analysis.stats import Interval
from harness.cell import CellSpec
from harness.errors import HarnessError
from harness.measure.records import RequestRecord

_COUNT = 256
_SIZES = [50_000, 100_000]
_GRID = experiment(cache_tokens=_SIZES, loads=[{"mode": "batch", "batch_size": 1}])
_AGAIN = _GRID | {"policies": ["lru"], "repeats": 2}


def _made(gain: float, speedup: float, noise: float = 0.0) -> Callable[[CellSpec], Any]:
    """Return cells in which ARC caches so many tokens of 100 more and takes so much less time.

    Cells that repeat another are slower by ``noise``, a fraction.
    """

    def made(spec: CellSpec) -> Sequence[RequestRecord]:
        rng = np.random.default_rng(spec.seed)
        cached, ttft = rng.integers(20, 40, _COUNT), rng.uniform(50, 150, _COUNT)
        of_arc = rng.normal(1, 0.1, (2, _COUNT))
        if spec.policy == "arc":
            cached = cached + np.round(gain * of_arc[0]).astype(int)
            ttft = ttft * (1 - speedup * of_arc[1])
        return [
            record(i, 500 * i, ttft[i] * (1 + noise * spec.repeat), cached_tokens=int(cached[i]))
            for i in range(_COUNT)
        ]

    return made


def _judged(results: Results, name: str, tier: str, quantity: str) -> dict[str, Any]:
    (row,) = (
        row
        for row in claims.judge(results)
        if (row["id"], row["tier"], row["quantity"]) == (name, tier, quantity)
    )
    return row


def test_claims_are_those_of_the_paper_and_each_has_its_values() -> None:
    found = claims.read()
    assert {claim.id for claim in found if claim.source == "paper"} == {
        f"C{number}" for number in range(1, 7)
    }
    # What is flat has a bound, and only what has a bound can be.
    for claim in found:
        for evidence in claim.tiers.values():
            assert claim.expect != "flat" or evidence.tolerance is not None


def test_papers_gains_are_those_that_it_states() -> None:
    gains = {
        (claim.id, claim.workload, claim.quantity): claims._papers(claim)
        for claim in claims.read()
        if claim.expect != "flat"
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


def test_what_is_as_the_paper_says_is_reproduced(root: Path, tmp_path: Path) -> None:
    results = measured(root, tmp_path, _made(9, 0.12, 0.01), _GRID, _AGAIN)
    row = _judged(results, "C1", "cpu", "hit_rate")
    assert row["verdict"] == "reproduced", row["reason"]
    assert row["ours"] == pytest.approx(9, abs=0.3)
    assert row["ci95"][0] < row["ours"] < row["ci95"][1]
    assert row["p"] < 1e-6
    assert [point["at"] for point in row["points"]] == ["50k tokens", "100k tokens"]
    assert row["points"][0]["paper"] == pytest.approx(10.8, abs=0.1)
    ttft = _judged(results, "C2", "cpu", "ttft")
    assert ttft["verdict"] == "reproduced", ttft["reason"]
    assert ttft["ours"] == pytest.approx(-12, abs=0.5)
    # Two pairs, each off by 1 %, and two points.
    assert ttft["noise"] == pytest.approx(4.303 / 2**0.5, abs=0.01)


def test_conversations_that_stand_in_for_the_trace_are_held_against_its_points(
    root: Path, tmp_path: Path
) -> None:
    grid = _GRID | {"workload": "conversation-short", "cache_tokens": [7200, 24_000]}
    noise = grid | {"policies": ["lru"], "repeats": 2}
    results = measured(root, tmp_path, _made(2, 0.04, 0.001), grid, noise)
    row = _judged(results, "C4", "cpu", "hit_rate")
    assert [point["at"] for point in row["points"]] == ["7k tokens", "24k tokens"]
    assert [point["paper"] for point in row["points"]] == pytest.approx([2.05, 1.3])
    assert row["verdict"] == "reproduced", row["reason"]
    ttft = _judged(results, "C4", "cpu", "ttft")
    assert [point["paper"] for point in ttft["points"]] == pytest.approx([-1.9, -1.0], abs=0.05)
    assert ttft["verdict"] == "direction only", ttft["reason"]
    assert "more than 0.5 % from the paper's" in ttft["reason"]


def test_too_small_a_gain_is_its_direction_only(root: Path, tmp_path: Path) -> None:
    results = measured(root, tmp_path, _made(3, 0.12), _GRID, _AGAIN)
    row = _judged(results, "C1", "cpu", "hit_rate")
    assert row["verdict"] == "direction only"
    assert "more than 3 points from the paper's at 50k tokens, 100k tokens" in row["reason"]


def test_what_is_no_more_than_noise_is_not_reproduced(root: Path, tmp_path: Path) -> None:
    results = measured(root, tmp_path, _made(9, 0.05, 0.04), _GRID, _AGAIN)
    row = _judged(results, "C2", "cpu", "ttft")
    # However sure it is that the requests of these very cells took less time.
    assert row["p"] < 0.001
    assert row["verdict"] == "not reproduced"
    assert "no larger than noise" in row["reason"]


def test_equal_policies_reproduce_nothing(root: Path, tmp_path: Path) -> None:
    results = measured(root, tmp_path, _made(0, 0.0), _GRID, _AGAIN)
    for row in claims.judge(results):
        assert row["verdict"] in ("not reproduced", "not run"), row


def test_the_opposite_is_not_reproduced(root: Path, tmp_path: Path) -> None:
    results = measured(root, tmp_path, _made(-9, -0.1), _GRID, _AGAIN)
    row = _judged(results, "C1", "cpu", "hit_rate")
    assert row["verdict"] == "not reproduced"
    assert "other direction" in row["reason"]


def test_nothing_is_reproduced_without_results(root: Path, tmp_path: Path) -> None:
    results = measured(root, tmp_path, lambda _: "no network", _GRID)
    for row in claims.judge(results):
        assert row["verdict"] == "not run"
        assert row["ours"] is None
        assert row["points"] == []
    assert _judged(results, "C1", "cpu", "hit_rate")["reason"] == "Not run: no network."
    assert _judged(results, "C1", "gpu", "hit_rate")["reason"] == "Config cpu has no tier gpu."


def test_without_equal_cells_nothing_is_told_from_noise(root: Path, tmp_path: Path) -> None:
    results = measured(root, tmp_path, _made(9, 0.12), _GRID)
    row = _judged(results, "C2", "cpu", "ttft")
    assert row["verdict"] == "not run"
    assert "A/A" in row["reason"]


def test_points_whose_cells_are_invalid_are_left_out_and_said(root: Path, tmp_path: Path) -> None:
    made = _made(9, 0.12)

    def broken(spec: CellSpec) -> Any:
        rows = made(spec)
        if spec.cache_tokens > 5000 and spec.policy == "arc":
            rows = [*rows[:-1], record(_COUNT - 1, 0, 10, status="reset", error="gone")]
        return rows

    row = _judged(measured(root, tmp_path, broken, _GRID, _AGAIN), "C1", "cpu", "hit_rate")
    assert [point["at"] for point in row["points"]] == ["50k tokens"]
    assert "1 point left out: invalid cells" in row["reason"]


_FLAT = Claim(
    id="X",
    claim="x",
    source="ours",
    quantity="hit_rate",
    expect="flat",
    workload="w",
    tiers={"cpu": Evidence(figure="f", tolerance=1)},
)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.5, 0.9, "reproduced"), (-0.5, 1.1, "not reproduced"), (-1.1, -0.2, "not reproduced")],
)
def test_flat_is_what_is_surely_within_the_tolerance(low: float, high: float, verdict: str) -> None:
    interval = Interval((low + high) / 2, low, high)
    found = Measured([Point("here", interval)], interval, 1.0, None)
    assert claims.verdict_of(_FLAT, _FLAT.tiers["cpu"], found, 1.0)[0] == verdict


def test_one_point_against_it_is_enough(root: Path) -> None:
    claim = _FLAT.model_copy(update={"expect": "up"})
    points = [Point("a", Interval(9, 8, 10)), Point("b", Interval(-2, -3, -1))]
    found = Measured(points, Interval(3.5, 3, 4), 1e-9, None)
    verdict, reason = claims.verdict_of(claim, claim.tiers["cpu"], found, 1e-9)
    assert verdict == "not reproduced"
    assert reason == "The difference has the other direction at b."
    # Unless by no more than noise, which for one point is more than for the mean of two.
    noisy = Measured(points, found.mean, 1e-9, 2.2)
    assert claims.verdict_of(claim, claim.tiers["cpu"], noisy, 1e-9)[0] == "reproduced"


def _replay(
    root: Path, tmp_path: Path, t1: Callable[[np.ndarray], np.ndarray], *more: dict[str, Any]
) -> Results:
    """Return a replay under ARC at two sizes with a course of T1's share of the cache."""
    sizes = [50_000, 250_000, 300_000]
    grid = experiment(tier="replay", policies=["arc"], cache_tokens=sizes)
    results = measured(root, tmp_path, lambda spec: [record(0, 0, 1)], grid, *more)
    for name, spec in results.config.cells.items():
        rising = spec.cache_tokens / 300_000
        share = 0.2 * rising + t1(np.arange(3072))
        folder = tmp_path / "cells" / f"replay-docqa-quality-s{spec.seed}"
        state = pd.DataFrame({"request": range(3072), "t1": share * spec.cache_blocks})
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
    assert _judged(random, "C6", "replay", "t1_swing")["verdict"] == "not reproduced"


def test_sizes_are_compared_by_the_seeds_that_all_have(root: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    results = _replay(
        root,
        tmp_path,
        lambda at: 0.15 + rng.normal(0, 0.01, len(at)),
        experiment(tier="replay", policies=["arc"], cache_tokens=[50_000], seeds=[42, 43]),
    )
    assert len(_judged(results, "C6", "replay", "t1_median")["points"]) == 2
    assert _judged(results, "C6", "replay", "t1_swing")["verdict"] == "not reproduced"
    other = _GRID | {"seeds": [43], "cache_tokens": [200_000]}
    apart = measured(root, tmp_path / "apart", _made(9, 0.12), _GRID, other)
    reason = _judged(apart, "C1", "cpu", "hit_rate")["reason"]
    assert reason == "No requests that all points have."


def test_share_that_never_changes_does_not_swing(root: Path, tmp_path: Path) -> None:
    results = _replay(root, tmp_path, lambda at: np.full(len(at), 0.5))
    assert _judged(results, "C6", "replay", "t1_swing")["verdict"] == "not reproduced"


def test_written_whole_and_read_again(tmp_path: Path) -> None:
    judged: list[dict[str, Any]] = [{"id": "C1", "ours": None}]
    claims.write(judged, tmp_path / "claims.json")
    assert claims.load(tmp_path / "claims.json") == judged
    assert [path.name for path in tmp_path.iterdir()] == ["claims.json"]
    (tmp_path / "claims.json").write_text("{")
    with pytest.raises(HarnessError, match=r"claims\.json: not readable"):
        claims.load(tmp_path / "claims.json")
