from itertools import pairwise
from pathlib import Path

import pytest

from harness.analysis import traffic
from harness.errors import HarnessError
from workloads.file import BlockRequest, BlockWorkload, Header

_SIZE = 16


def _workload(*requests: list[tuple[int, int]], sessions: list[int] | None = None) -> BlockWorkload:
    """Return requests of runs of blocks, a second apart, of 5 tokens beyond and 1 to come."""
    made = tuple(
        BlockRequest(
            request=number,
            session=sessions[number] if sessions else None,
            arrival_ms=1000.0 * number,
            prompt_tokens=_SIZE * sum(count for _, count in runs) + 5,
            output_tokens=1,
            runs=tuple(runs),
        )
        for number, runs in enumerate(requests)
    )
    header = Header(
        content="blocks", name="w", seed=0, block_size=_SIZE, requests=len(made), params={}
    )
    return BlockWorkload(header, made)


def test_says_what_comes_back_and_after_how_much_else() -> None:
    # a: 4 blocks; b: 3 others; c: 2 of a's again, after b; d: a's whole, of which half is fresh.
    found = traffic.measure(_workload([(0, 4)], [(10, 3)], [(0, 2)], [(0, 4)]))
    assert (found.requests, found.lookups, found.distinct_blocks) == (4, 13, 7)
    assert found.seen_before == pytest.approx(6 / 13)
    assert found.used_once == pytest.approx(3 / 7)
    assert found.span_s == 3
    assert found.sessions is None
    assert found.turns == []
    # Directly after, 2 blocks; after b's 3, 2; and 2 after b's 3 and c's 2.
    expected = [(0.0, 2 / 13), (48.0, 4 / 13), (80.0, 6 / 13)]
    assert found.distances == [pytest.approx(point) for point in expected]
    assert found.uses[0] == pytest.approx((1 / 7, 3 / 13))
    assert found.uses[-1] == pytest.approx((1, 1))
    # Five tokens and one to come take a block that nobody else has.
    assert found.longest_tokens == 5 * _SIZE
    assert found.working_set_tokens == 8 * _SIZE


def test_sessions_are_counted_where_all_requests_name_one() -> None:
    found = traffic.measure(_workload([(0, 1)], [(0, 2)], [(9, 1)], sessions=[1, 1, 2]))
    assert found.sessions == 2
    assert found.turns == [(1, 1), (2, 1)]
    assert "3 requests in 2 sessions over 2 s" in found.sentence


def test_live_sessions_are_those_that_come_again() -> None:
    # A's two requests of 1 and 3 blocks, then a third; B once; C's first and last is the last.
    requests = [[(0, 1)], [(50, 9)], [(0, 3)], [(0, 4)], [(90, 9)]]
    found = traffic.measure(_workload(*requests, sessions=[1, 2, 1, 1, 3]))
    assert found.live_sessions == pytest.approx(3 / 5)
    assert found.live_tokens == pytest.approx((1 + 1 + 3) * _SIZE / 5)
    without = traffic.measure(_workload(*requests))
    assert (without.live_sessions, without.live_tokens) == (None, None)
    # What warms the cache is not counted, but what it began goes on.
    workload = _workload(*requests, sessions=[1, 2, 1, 1, 3])
    header = workload.header.model_copy(update={"warm_up": 2})
    warmed = traffic.measure(BlockWorkload(header, workload.requests))
    assert warmed.live_sessions == pytest.approx(1 / 3)


def test_skew_is_of_what_is_asked_for_at_a_time() -> None:
    # Of ten blocks, one gets half of the look-ups, another one in each window.
    window = traffic.WINDOW // 2
    often = [[[(10 * w, 1)], [(10 * w + 1 + i % 9, 1)]] for w in (0, 1) for i in range(window)]
    found = traffic.measure(_workload(*(run for pair in often for run in pair)))
    assert found.top_tenth == pytest.approx(0.5)
    even = traffic.measure(_workload(*([(i % 10, 1)] for i in range(100))))
    assert even.top_tenth == pytest.approx(0.1)


def test_cache_sizes_are_from_one_request_to_all() -> None:
    found = traffic.measure(_workload(*([(100 * i, 100)] for i in range(100))))
    sizes = traffic.cache_sizes(found, 10**9)
    assert sizes[0] == found.longest_tokens == 101 * _SIZE
    assert sizes[-1] == found.working_set_tokens == 10_001 * _SIZE
    assert len(sizes) == 5
    assert all(size % _SIZE == 0 for size in sizes)
    ratios = [after / before for before, after in pairwise(sizes)]
    assert max(ratios) < 1.1 * min(ratios)
    assert traffic.cache_sizes(found, 50_010)[-1] == 50_000


def test_one_request_has_one_size() -> None:
    found = traffic.measure(_workload([(0, 3)]))
    assert traffic.cache_sizes(found, 10**9) == [4 * _SIZE]
    assert found.distances == []


def test_nothing_to_look_up_is_refused() -> None:
    with pytest.raises(HarnessError, match=r"none of its requests \(1\) has a full block"):
        traffic.measure(_workload([]))


def test_what_is_written_is_read_and_damage_is_named(tmp_path: Path) -> None:
    found = traffic.measure(_workload([(0, 4)], [(0, 4)]))
    path = tmp_path / "traffic.json"
    traffic.write(found, path)
    assert traffic.read(path) == found
    path.write_text("{}")
    with pytest.raises(HarnessError, match=r"traffic\.json: no description of traffic"):
        traffic.read(path)
