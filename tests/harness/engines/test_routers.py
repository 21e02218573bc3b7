from typing import get_args

import pytest

from harness.cell import Fleet
from harness.engines.routers import ROUTERS, Router
from workloads.file import BlockRequest


def _request(*runs: tuple[int, int], session: int | None = None) -> BlockRequest:
    tokens = 16 * sum(count for _, count in runs) + 1
    return BlockRequest(
        request=0, session=session, prompt_tokens=tokens, output_tokens=1, runs=runs
    )


def _router(name: str, engines: int = 3, cache_blocks: int = 100, seed: int = 1) -> Router:
    return ROUTERS[name](engines, cache_blocks, seed)


def _choices(router: Router, *requests: BlockRequest, engines: int = 3) -> list[int]:
    return [router.choose(request, [0] * engines) for request in requests]


def test_config_names_every_router() -> None:
    assert set(get_args(Fleet.model_fields["router"].annotation)) == set(ROUTERS)


def test_round_robin_takes_turns() -> None:
    assert _choices(_router("round-robin"), *[_request((0, 1))] * 4) == [0, 1, 2, 0]


def test_sessions_stay_and_single_requests_fill_up() -> None:
    router = _router("session")
    first = _choices(router, *(_request((i, 1), session=i) for i in range(30)))
    assert _choices(router, *(_request((i, 9), session=i) for i in range(30))) == first
    assert set(first) == {0, 1, 2}
    counts = [2 * first.count(engine) for engine in range(3)]
    single = _choices(router, _request((99, 1)))
    assert single == [counts.index(min(counts))]


@pytest.mark.parametrize("name", ["prefix-aware", "cache-aware", "scored"])
def test_longest_prefix_wins(name: str) -> None:
    router = _router(name)
    homes = {start: _choices(router, _request((start, 8)))[0] for start in range(0, 600, 100)}
    assert len(set(homes.values())) == 3
    for start, home in homes.items():
        # Most of it, and more that is new.
        assert _choices(router, _request((start, 6), (start + 50, 2))) == [home]


def test_prefix_aware_never_forgets_and_scored_does() -> None:
    for name, remembers in (("prefix-aware", True), ("scored", False)):
        found = set()
        for seed in range(40):
            router = _router(name, engines=2, cache_blocks=10, seed=seed)
            (home,) = _choices(router, _request((0, 8)), engines=2)
            # Each engine gets more than it has room for.
            _choices(router, *(_request((100 * i, 8)) for i in range(1, 30)), engines=2)
            found.add(_choices(router, _request((0, 8)), engines=2)[0] == home)
        assert found == ({True} if remembers else {True, False})


def test_cache_aware_goes_to_the_smallest_record_if_too_little_matches() -> None:
    router = _router("cache-aware", engines=2)
    assert _choices(router, _request((0, 10)), _request((100, 4)), engines=2) == [0, 1]
    # 3 of 10 blocks are no more than the threshold; 4 are.
    assert _choices(router, _request((0, 3), (200, 7)), engines=2) == [1]
    assert _choices(router, _request((0, 4), (300, 6)), engines=2) == [0]


def test_load_goes_before_prefixes_where_the_rules_say_so() -> None:
    router = _router("cache-aware", engines=2)
    assert router.choose(_request((0, 8)), [0, 0]) == 0
    assert router.choose(_request((0, 8)), [64, 0]) == 0
    assert router.choose(_request((0, 8)), [65, 0]) == 1
    router = _router("scored", engines=2)
    home = router.choose(_request((0, 8)), [0, 0])
    queues = [3, 3]
    queues[home] = 4
    # Three for the whole prompt against two for the shorter queue.
    assert router.choose(_request((0, 8)), queues) == home
    assert router.choose(_request((0, 4), (50, 4)), queues) == 1 - home
