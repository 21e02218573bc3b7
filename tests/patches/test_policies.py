"""The patched policies, through the patched pool: against a reference, and case by case."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pool import Pool, chain_hashes
from support.reference import ReferenceARC

_TRACES = st.integers(1, 12).flatmap(
    lambda c: st.tuples(st.just(c), st.lists(st.integers(0, 3 * c + 2), max_size=400))
)


def _reference(policy: str, capacity: int) -> ReferenceARC:
    return ReferenceARC(capacity, capacity / 2 if policy == "dbl" else None)


@pytest.mark.parametrize("policy", ["arc", "dbl"])
@settings(max_examples=150, deadline=None)
@given(trace=_TRACES)
def test_follows_the_reference_decision_for_decision(
    policy: str, trace: tuple[int, list[int]]
) -> None:
    capacity, accesses = trace
    pool, reference = Pool(policy, capacity), _reference(policy, capacity)
    for content in accesses:
        assert pool.access(content) == reference.access(content)
        stats = pool.policy.get_stats()
        assert stats == {
            "t1": len(reference.t1),
            "t2": len(reference.t2),
            "b1": len(reference.b1),
            "b2": len(reference.b2),
            "p": reference.p,
        }


@settings(max_examples=50, deadline=None)
@given(trace=_TRACES)
def test_arc_follows_libcachesim(trace: tuple[int, list[int]]) -> None:
    import libcachesim as lcs

    capacity, accesses = trace
    pool, other = Pool("arc", capacity), lcs.ARC(cache_size=capacity)
    for time, content in enumerate(accesses):
        request = lcs.Request(obj_id=content + 1, obj_size=1, clock_time=time)
        assert pool.access(content) == other.get(request)


def _seen(pool: Pool, content: int) -> bool:
    return pool.pool.get_cached_block(chain_hashes(content)[0], [0]) is not None


def test_lru_is_upstreams_queue() -> None:
    pool = Pool("lru", 4)
    assert pool.policy is None
    assert type(pool.pool.free_block_queue).__name__ == "FreeKVCacheBlockQueue"


def test_scan_evicts_hot_blocks_under_lru_but_not_under_arc_or_dbl() -> None:
    kept = {}
    for policy in ("lru", "dbl", "arc"):
        pool = Pool(policy, 8)
        for content in (0, 1, 0, 1):
            pool.access(content)
        for content in range(100, 140):
            pool.access(content)
        kept[policy] = _seen(pool, 0) and _seen(pool, 1)
    assert kept == {"lru": False, "dbl": True, "arc": True}


def test_tail_of_a_chain_goes_before_its_head() -> None:
    for policy in ("lru", "dbl", "arc"):
        pool = Pool(policy, 4)
        hashes = chain_hashes(1, 2, 3, 4)
        started = pool.start(hashes)
        assert started is not None
        pool.finish(started[0])
        pool.access(100)
        assert pool.pool.get_cached_block(hashes[3], [0]) is None
        assert pool.pool.get_cached_block(hashes[2], [0]) is not None


def test_shared_use_is_no_second_use() -> None:
    pool = Pool("arc", 8)
    first, second = (pool.start(chain_hashes(1)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert second[1] == 1
    pool.finish(first[0])
    pool.finish(second[0])
    assert pool.policy.get_stats()["t1"] == 1
    pool.access(1)
    assert pool.policy.get_stats()["t2"] == 1


def test_coming_back_from_preemption_is_no_second_use() -> None:
    pool = Pool("arc", 8)
    started = pool.start(chain_hashes(1, 2))
    assert started is not None
    pool.finish(started[0])
    started = pool.start(chain_hashes(1, 2), is_resumed=True)
    assert started is not None
    assert started[1] == 2
    pool.finish(started[0])
    assert pool.policy.get_stats() == {"t1": 2, "t2": 0, "b1": 0, "b2": 0, "p": 0.0}


def test_unhashed_blocks_go_first() -> None:
    pool = Pool("arc", 4)
    pool.access(1)
    started = pool.start([], partial_blocks=3)
    assert started is not None
    pool.finish(started[0])
    pool.access(2)
    assert _seen(pool, 1)
    assert pool.policy.num_evictions == 0


def test_ghost_hit_adapts_before_the_eviction_and_enters_t2() -> None:
    pool = Pool("arc", 2)
    for content in (1, 1, 2, 3):  # T2 = [1], T1 = [3], B1 = [2]
        pool.access(content)
    assert pool.policy.get_stats() == {"t1": 1, "t2": 1, "b1": 1, "b2": 0, "p": 0.0}
    # p becomes 1 first, so |T1| = 1 is not larger and the victim is of T2; with the old p = 0 it
    # would be 3.
    pool.access(2)
    assert pool.policy.get_stats() == {"t1": 1, "t2": 1, "b1": 0, "b2": 1, "p": 1.0}
    assert _seen(pool, 3)
    assert not _seen(pool, 1)


def test_hash_in_two_blocks_becomes_a_ghost_with_the_last() -> None:
    pool = Pool("arc", 4)
    for content in (9, 9):  # T2, so that T1 leaves room for ghosts
        pool.access(content)
    first = pool.start(chain_hashes(1))
    assert first is not None
    # A second block gets the same hash, as the last block of a repeated prompt does.
    second = pool.pool.get_new_blocks(1)
    from support.pool import BLOCK_SIZE, FakeRequest

    pool.pool.cache_full_blocks(FakeRequest(chain_hashes(1)), second, 0, 1, BLOCK_SIZE, 0)
    pool.finish(first[0])
    pool.finish(second)
    pool.access(2)
    pool.access(3)
    assert _seen(pool, 1)
    assert pool.policy.get_stats()["b1"] == 0
    pool.access(4)
    assert not _seen(pool, 1)
    assert pool.policy.get_stats()["b1"] == 1


def test_pinned_list_leaves_the_eviction_to_the_other() -> None:
    pool = Pool("arc", 3)
    pool.access(1)
    pool.access(1)  # T2
    running = pool.start(chain_hashes(2, 3))  # T1, pinned, |T1| > p
    assert running is not None
    pool.access(4)
    assert not _seen(pool, 1)
    assert _seen(pool, 2)
    assert pool.policy.get_stats()["b2"] == 1


def test_a_chain_may_evict_and_take_back_its_own_orphan() -> None:
    # The head is gone and the tail is not: the tail makes room for the very hash it had.
    pool = Pool("arc", 2)
    hashes = chain_hashes(1, 2)
    started = pool.start(hashes)
    assert started is not None
    pool.finish(started[0])
    pool.pool.evict_blocks({started[0][0].block_id})
    again = pool.start(hashes)
    assert again is not None
    assert again[1] == 0
    pool.finish(again[0])
    assert pool.pool.get_num_free_blocks() == 2


def test_reset_forgets_all() -> None:
    pool = Pool("arc", 3)
    for content in (1, 1, 2, 3, 4, 2, 5):
        pool.access(content)
    assert pool.pool.reset_prefix_cache()
    assert pool.policy.get_stats() == {"t1": 0, "t2": 0, "b1": 0, "b2": 0, "p": 0.0}
    assert pool.pool.get_num_free_blocks() == 3
    assert not pool.access(1)


def test_iterates_in_the_order_of_eviction() -> None:
    for policy in ("dbl", "arc"):
        pool = Pool(policy, 6)
        for content in (1, 1, 2, 2, 3, 4, 5, 6, 7, 3, 8):
            pool.access(content)
        queue = pool.pool.free_block_queue
        expected = [block.block_id for block in queue.iter_blocks_after(None)]
        assert [block.block_id for block in queue.get_all_free_blocks()] == expected
        after_second = pool.pool.blocks[expected[1]]
        assert [b.block_id for b in queue.iter_blocks_after(after_second)] == expected[2:]
        assert [block.block_id for block in pool.pool.get_new_blocks(6)] == expected


def test_without_prefix_caching_there_is_no_policy() -> None:
    from vllm.v1.core.block_pool import BlockPool

    pool = BlockPool(5, enable_caching=False, hash_block_size=16, eviction_policy="arc")
    assert pool.eviction_policy is None
    blocks = pool.get_new_blocks(4)
    pool.free_blocks(blocks)
    assert pool.get_num_free_blocks() == 4


def test_unknown_policy_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"'mru'.*'lru', 'arc', 'dbl'"):
        Pool("mru", 4)
