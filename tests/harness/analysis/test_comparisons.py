import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.results import CHAT, due, experiment, measured, open_loop, record

from harness.analysis import comparisons
from harness.cell import CellSpec
from harness.errors import HarnessError
from harness.measure import validity
from harness.measure.records import RequestRecord

_COUNT = 24
_BATCH = {"loads": [{"mode": "batch", "batch_size": 1}]}
_GRID = experiment(cache_tokens=[50_000, 100_000], **_BATCH)
_AGAIN = _GRID | {"policies": ["lru"], "repeats": 2}


def _made(spec: CellSpec) -> list[RequestRecord]:
    cached = {"lru": 20 + 2 * spec.repeat, "arc": 40}.get(spec.policy, 99)
    send = due if spec.load.mode == "open-loop" else record
    changes = {} if spec.load.mode != "closed-loop" else {"session": 1, "turn": 1}
    return [
        send(i, 500 * i, 100 - cached / 2 + i, cached_tokens=cached + i % 5, **changes)
        for i in range(_COUNT)
    ]


def test_cells_with_the_same_requests_are_compared(root: Path, tmp_path: Path) -> None:
    stock = experiment(engine="vllm-stock", policies=["lru"], cache_tokens=[50_000], **_BATCH)
    dbl = _GRID | {"policies": ["dbl"], "cache_tokens": [200_000]}
    results = measured(root, tmp_path, _made, _GRID, _AGAIN, stock, dbl)
    found = comparisons.compare(results)
    assert [one.x for one in found] == [50, 100]
    one = found[0]
    assert (one.tier, one.workload, one.mode) == ("cpu", "docqa-quality", "batch")
    assert (one.batch_size, one.request_rate, one.seed) == (1, None, 42)
    names = [name.rpartition("vllm-")[2] for name in (*one.base, *one.policy)]
    assert names == ["lru", "lru-again1", "arc"]
    # A repeat of LRU that hits two points more; the mean of LRU's is held against ARC's.
    mean = sum(i % 5 for i in range(_COUNT)) / _COUNT / 100
    assert one.hit_rates == pytest.approx((0.21 + mean, 0.40 + mean))
    assert one.gains == pytest.approx((20, 18))
    assert one.gain == pytest.approx(19)
    assert one.online is None
    assert one.effect is not None
    assert len(one.effect.of_engines) == 3
    assert len(one.effect.residuals) == 2


def test_only_what_is_wanted_is_compared(root: Path, tmp_path: Path) -> None:
    http = _GRID | {"loads": [{"mode": "batch-http", "batch_size": size} for size in (1, 2)]}
    results = measured(root, tmp_path, _made, _GRID, http, _GRID | {"seeds": [43]})
    assert {one.seed for one in comparisons.compare(results, mode="batch")} == {42, 43}
    found = comparisons.compare(results, "cpu", "docqa-quality", "batch-http")
    assert sorted((one.batch_size, one.x) for one in found) == [
        (1, 50),
        (1, 100),
        (2, 50),
        (2, 100),
    ]
    assert comparisons.compare(results, "replay") == []
    assert comparisons.compare(results, workload="docqa-few") == []


def test_without_a_clock_there_is_no_time(root: Path, tmp_path: Path) -> None:
    grid = experiment(tier="replay", cache_tokens=[50_000])
    (one,) = comparisons.compare(measured(root, tmp_path, _made, grid))
    assert one.gains == pytest.approx((20,))
    assert one.effect is None
    assert one.online is None


def test_closed_loops_and_invalid_cells_are_compared_with_nothing(
    root: Path, tmp_path: Path
) -> None:
    def broken(spec: CellSpec) -> Sequence[RequestRecord]:
        rows = _made(spec)
        if spec.policy == "arc" and spec.cache_tokens > 5000:
            rows[3] = record(3, 0, 10, status="reset", error="gone")
        return rows

    results = measured(root, tmp_path, broken, _GRID, experiment(**CHAT))
    assert [one.x for one in comparisons.compare(results)] == [50]


def test_requests_that_failed_in_a_cell_are_in_none(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validity, "MAX_ERROR_RATE", 0.5)

    def made(spec: CellSpec) -> list[RequestRecord]:
        rows = [record(i, 500 * i, 100, cached_tokens=20 + i) for i in range(_COUNT)]
        if spec.policy == "arc":
            rows[3] = record(3, 0, 1e6, status="truncated", error="cut off")
        return rows

    (one,) = comparisons.compare(
        measured(root, tmp_path, made, experiment(cache_tokens=[50_000], **_BATCH))
    )
    assert one.effect is not None
    assert one.effect.plain == 0
    assert one.effect.value == 0


def _online(spec: CellSpec) -> list[RequestRecord]:
    """Make turns of four requests; LRU's second cell is 8, 16 ms slower in one, and so on."""
    rows = []
    for i in range(8):
        ttft = 100.0 if spec.policy == "lru" else 84.0
        rows.append(due(i, 500 * i, ttft + spec.repeat * (8 if i < 4 else 16), cached_tokens=i))
    return rows


def test_open_loop_has_its_error_from_the_turns_of_equal_cells(root: Path, tmp_path: Path) -> None:
    grid = experiment(loads=[open_loop(8, turn_requests=4)])
    again = grid | {"policies": ["lru"], "repeats": 2}
    (one,) = comparisons.compare(measured(root, tmp_path, _online, grid, again))
    assert (one.request_rate, one.batch_size, one.effect) == (8, None, None)
    assert one.online is not None
    # Sums of a turn: 400, 400; 432, 464; their means are 416, 432, and ARC's 336, 336.
    assert one.online.value == pytest.approx(100 * (672 / 848 - 1))
    assert one.online.df == 2
    variance = (16**2 + 16**2 + 32**2 + 32**2) / 2
    expected = math.sqrt(variance * 2 * (1 / 2 + 1 / 1)) / 848
    assert one.online.error == pytest.approx(100 * expected)


def test_open_loop_without_equal_cells_has_an_error_that_nobody_knows(
    root: Path, tmp_path: Path
) -> None:
    grid = experiment(loads=[open_loop(8)])
    (one,) = comparisons.compare(measured(root, tmp_path, _online, grid))
    assert one.online is not None
    assert one.online.value == pytest.approx(-16)
    assert math.isnan(one.online.error)


def test_names_tell_all_comparisons_of_a_run_apart(root: Path, tmp_path: Path) -> None:
    loads = [
        open_loop(8),
        open_loop(9),
        open_loop(8, turn_requests=4),
        open_loop(8, arrivals="gamma", burstiness=0.25),
    ]
    http = [{"mode": "batch-http", "batch_size": size} for size in (1, 2)]
    grid = experiment(cache_tokens=[50_000], loads=[*loads, *http], seeds=[42, 43])
    found = comparisons.compare(measured(root, tmp_path, _made, grid, _GRID))
    assert len(found) == 2 * 6 + 2
    assert len({(one.name, one.seed) for one in found}) == len(found)
    assert "cpu docqa-quality batch1 50" in {one.name for one in found}


def test_damaged_cell_is_named(root: Path, tmp_path: Path) -> None:
    results = measured(root, tmp_path, _made, _GRID)
    next(tmp_path.glob("cells/**/*arc/requests.parquet")).unlink()
    with pytest.raises(HarnessError, match=r"requests\.parquet: not readable"):
        comparisons.compare(results)


def test_other_pairs_of_policies_have_names_of_their_own(root: Path, tmp_path: Path) -> None:
    grid = _GRID | {"policies": ["lru", "arc", "alrfu"], "cache_tokens": [50_000]}
    results = measured(root, tmp_path, _made, grid, _AGAIN)
    (one,) = comparisons.compare(results, pair=comparisons.Pair("arc", "alrfu"))
    assert [name.rpartition("vllm-")[2] for name in (*one.base, *one.policy)] == ["arc", "alrfu"]
    assert one.gain == pytest.approx(99 - 40)
    assert one.name == "cpu docqa-quality batch1 50, alrfu less arc"
    papers = comparisons.compare(results)
    assert [each.name for each in papers if each.x == 50] == ["cpu docqa-quality batch1 50"]
