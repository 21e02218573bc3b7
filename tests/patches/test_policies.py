"""What counts as what, case by case, through the patched pool."""

import random
from typing import Any

import pytest
from support.pool import BLOCK_SIZE, FakeRequest, Pool, chain_hashes, get_ghosts

# Those that keep what was used several times, whatever the traffic was; and all.
_KEEPING = ["arc", "dbl", "slru", "s3fifo", "arcleaf"]
_POLICIES = [*_KEEPING, "alrfu"]


def _seen(pool: Pool, content: int) -> bool:
    return pool.pool.get_cached_block(chain_hashes(content)[0], [0]) is not None


def test_lru_is_upstreams_queue() -> None:
    pool = Pool("lru", 4)
    assert pool.policy is None
    assert type(pool.pool.free_block_queue).__name__ == "FreeKVCacheBlockQueue"


def test_scan_evicts_hot_blocks_under_lru_only() -> None:
    kept = {}
    for policy in ("lru", *_KEEPING):
        pool = Pool(policy, 8)
        for content in (0, 1) * 3:  # S3-FIFO wants two uses after the first.
            pool.access(content)
        for content in range(100, 140):
            pool.access(content)
        kept[policy] = _seen(pool, 0) and _seen(pool, 1)
    assert kept == {"lru": False, **dict.fromkeys(_KEEPING, True)}


@pytest.mark.parametrize("uses", [1, 2, 3])
@pytest.mark.parametrize("policy", ["lru", *_POLICIES])
def test_tail_of_a_chain_goes_before_its_head(policy: str, uses: int) -> None:
    pool = Pool(policy, 4)
    hashes = chain_hashes(1, 2, 3, 4)
    for _ in range(uses):
        started = pool.start(hashes)
        assert started is not None
        pool.finish(started[0])
    pool.access(100)
    assert pool.pool.get_cached_block(hashes[3], [0]) is None
    assert pool.pool.get_cached_block(hashes[2], [0]) is not None


@pytest.mark.parametrize("policy", _KEEPING)
def test_use_of_a_block_in_use_counts(policy: str) -> None:
    kept = {}
    for is_shared in (False, True):
        pool = Pool(policy, 8)
        holder = pool.start(chain_hashes(1)) if is_shared else None
        for _ in range(3):
            pool.access(1)
        if holder is not None:
            pool.finish(holder[0])
        for content in range(100, 140):
            pool.access(content)
        kept[is_shared] = _seen(pool, 1)
    assert kept == {False: True, True: True}


def test_protected_segment_that_is_in_use_may_be_too_large() -> None:
    pool = Pool("slru", 5)
    started = [pool.start(chain_hashes(content)) for content in range(5)]
    for content in range(5):
        pool.start(chain_hashes(content))
    assert pool.policy.get_stats() == {"probation": 0, "protected": 5}
    for one in started:
        assert one is not None
        pool.finish(one[0])


def test_coming_back_from_preemption_is_no_second_use() -> None:
    pool = Pool("arc", 8)
    started = pool.start(chain_hashes(1, 2))
    assert started is not None
    pool.finish(started[0])
    started = pool.start(chain_hashes(1, 2), num_own=2)
    assert started is not None
    assert started[1] == 2
    pool.finish(started[0])
    assert pool.policy.get_stats() == {"t1": 2, "t2": 0, "b1": 0, "b2": 0, "p": 0.0}


def test_what_preemption_lost_comes_back_to_the_list_that_lost_it() -> None:
    pool = Pool("arc", 3)
    for content in (1, 1, 2, 3, 4):  # T2 = [1], T1 = [3, 4], B1 = [2]
        pool.access(content)
    assert pool.policy.get_stats() == {"t1": 2, "t2": 1, "b1": 1, "b2": 0, "p": 0.0}
    started = pool.start(chain_hashes(2), num_own=1)
    assert started is not None
    pool.finish(started[0])
    # Not to T2, and p is where it was.
    assert pool.policy.get_stats() == {"t1": 2, "t2": 1, "b1": 1, "b2": 0, "p": 0.0}


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
    pool.pool.cache_full_blocks(FakeRequest(chain_hashes(1)), second, 0, 1, BLOCK_SIZE, 0)
    pool.finish(first[0])
    pool.finish(second)
    pool.access(2)
    pool.access(3)
    assert _seen(pool, 1)
    pool.policy.settle()
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


@pytest.mark.parametrize("policy", _POLICIES)
@pytest.mark.parametrize("seed", range(5))
def test_iterates_in_the_order_of_eviction(policy: str, seed: int) -> None:
    pool = Pool(policy, 20)
    for content in random.Random(seed).choices(range(40), range(40, 0, -1), k=300):
        pool.access(content)
    queue = pool.pool.free_block_queue
    expected = [block.block_id for block in queue.iter_blocks_after(None)]
    assert [block.block_id for block in queue.get_all_free_blocks()] == expected
    # What becomes free may come before any block: who asks again has to see it.
    third = pool.pool.blocks[expected[2]]
    assert [b.block_id for b in queue.iter_blocks_after(third)] == expected
    # Asking changes nothing, and is right.
    assert [block.block_id for block in queue.get_all_free_blocks()] == expected
    assert [pool.pool.get_new_blocks(1)[0].block_id for _ in range(20)] == expected


def test_a_hash_that_nobody_announced_is_looked_up_when_it_is_inserted() -> None:
    # A block filled by decoding, or loaded from elsewhere.
    pool = Pool("arc", 4)
    for content in (1, 1, 5, 5, 2, 3, 4):  # T2 = [1, 5], T1 = [3, 4], B1 = [2]
        pool.access(content)
    pool.policy.settle()
    blocks = pool.pool.get_new_blocks(1)
    pool.pool.cache_full_blocks(FakeRequest(chain_hashes(2)), blocks, 0, 1, BLOCK_SIZE, 0)
    stats = pool.policy.get_stats()
    assert stats["p"] == 1.0
    assert stats["t2"] == 3
    assert (stats["b1"], stats["b2"]) == (1, 0)  # 3, evicted for it; 2 is no ghost any more


def test_moved_hashes_take_their_list_with_them() -> None:
    # As a Mamba state does that its request goes on writing.
    pool = Pool("arc", 4)
    pool.access(1)
    started = pool.start(chain_hashes(1))
    assert started is not None
    (source,) = started[0]
    (copy,) = pool.pool.get_new_blocks(1)
    pool.pool.move_block_hashes(source, copy)
    pool.finish([source, copy])
    assert pool.policy.get_stats() == {"t1": 0, "t2": 1, "b1": 0, "b2": 0, "p": 0.0}
    assert _seen(pool, 1)
    assert pool.pool.get_num_free_blocks() == 4


def test_unpinned_blocks_are_reused_last_and_become_no_ghosts() -> None:
    pool = Pool("arc", 4)
    for content in (1, 2):
        pool.access(content)
    read = pool.pool.get_new_blocks(1)
    reused: list[Any] = []
    pool.pool.unpin_blocks(read, reused.append)
    assert pool.pool.get_num_free_blocks() == 4
    for content in range(3, 6):
        pool.access(content)
    assert not reused
    pool.access(6)
    assert reused == read
    assert pool.policy.get_stats()["b1"] + pool.policy.get_stats()["t1"] <= 4
    assert None not in get_ghosts(pool.policy)[0]


@pytest.mark.parametrize("policy", ["lru", *_POLICIES])
def test_removed_events_are_those_of_the_evicted(policy: str) -> None:
    from vllm.v1.core.kv_cache_utils import get_block_hash, maybe_convert_block_hash

    pool = Pool(policy, 4)
    for content in range(4):
        pool.access(content)
    pool.pool.enable_kv_cache_events = True
    expected = next(iter(pool.pool.free_block_queue.iter_blocks_after(None))).block_hash
    pool.pool.get_new_blocks(1)
    (event,) = pool.pool.take_events()
    assert event.block_hashes == [maybe_convert_block_hash(get_block_hash(expected))]


def test_without_prefix_caching_there_is_no_policy() -> None:
    from vllm.v1.core.block_pool import BlockPool

    pool = BlockPool(5, enable_caching=False, hash_block_size=16, eviction_policy="arc")
    assert pool.eviction_policy is None
    blocks = pool.get_new_blocks(4)
    pool.free_blocks(blocks)
    assert pool.get_num_free_blocks() == 4


def test_unknown_policy_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"'mru'.*'lru', 'arc', 'dbl', 'slru', 's3fifo', 'alrfu', 'arcleaf'"):
        Pool("mru", 4)
