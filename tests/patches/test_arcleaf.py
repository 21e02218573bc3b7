"""ARC that evicts leaves only: as a readable reference, and nothing cached is out of reach."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chains import count_evictions_while_reachable, random_chain, run_chain
from support.pool import Pool, chain_hashes
from support.reference import ReferenceARC, ReferenceARCLeaf


@settings(max_examples=80, deadline=None)
@given(accesses=st.lists(st.integers(0, 40), max_size=400), capacity=st.integers(1, 14))
def test_without_prefixes_it_is_arc(accesses: list[int], capacity: int) -> None:
    pool, reference = Pool("arcleaf", capacity), ReferenceARC(capacity)
    for content in accesses:
        assert pool.access(content) == reference.access(content)
        assert pool.policy.get_stats()["p"] == reference.p


@pytest.mark.parametrize("seed", range(12))
def test_follows_the_reference(seed: int) -> None:
    # A request adds one block to a prefix that is cached, so that the order within a request, of
    # which the paper knows nothing, decides nothing.
    rng = random.Random(seed)
    capacity = rng.choice([7, 9, 14])
    pool, reference = Pool("arcleaf", capacity), ReferenceARCLeaf(capacity)
    for _ in range(1200):
        chain = tuple(random_chain(rng))
        while len(chain) > 1 and chain[:-1] not in reference:
            chain = chain[:-1]
        assert run_chain(pool, list(chain)) == reference.request(chain)
        assert pool.policy.get_stats() == reference.get_stats()
    assert reference.num_below > 2, "what ARC evicts was a leaf, so that little was tried"


@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_cached_block_can_be_reached(batch_size: int) -> None:
    rng = random.Random(f"reach {batch_size}")
    assert count_evictions_while_reachable(Pool("arcleaf", 50), rng, batch_size) > 1000


def test_cutting_an_allocation_changes_no_eviction() -> None:
    evicted = []
    for goes in ([20], [3, 17], [1] * 20):
        rng = random.Random("goes")
        pool = Pool("arcleaf", 20)
        for _ in range(200):
            run_chain(pool, random_chain(rng))
        left = pool.pool.eviction_policy.get_all_free_blocks()
        blocks = [block for count in goes for block in pool.pool.get_new_blocks(count)]
        evicted.append([block.block_id for block in blocks])
        assert evicted[-1] == [block.block_id for block in left]
    assert evicted[0] == evicted[1] == evicted[2]


def test_a_prefix_whose_beginning_is_invalidated_is_a_prefix_no_more() -> None:
    pool = Pool("arcleaf", 4)
    run_chain(pool, [1, 2, 3])
    head = pool.pool.get_cached_block(chain_hashes(1)[0], [0])[0]
    pool.pool.evict_blocks({head.block_id})
    order = pool.policy.get_all_free_blocks()
    # Those without a hash first; then the leaf.
    names = [b.block_hash and b.block_hash[:-4].rstrip(b".") for b in order]
    assert names == [None, None, b"(1, 2, 3)", b"(1, 2)"]
