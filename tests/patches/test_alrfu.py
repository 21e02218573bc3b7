"""ALRFU: decision for decision as a readable reference, and what it promises of prefixes."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chains import count_evictions_while_reachable, count_unreachable, random_chain, run_chain
from support.independent import IndependentCache
from support.pool import Pool, chain_hashes


@pytest.mark.parametrize("seed", range(12))
def test_follows_the_reference(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from support.reference_alrfu import ReferenceALRFU
    from vllm.v1.core.eviction import alrfu

    # It forgets nothing, as the reference.
    monkeypatch.setattr(alrfu, "MAX_GHOSTS", 10**9)
    rng = random.Random(seed)
    capacity = rng.choice([9, 20, 33])
    pool, reference = Pool("alrfu", capacity), ReferenceALRFU(capacity)
    followed = set()
    for _ in range(400):
        chain = random_chain(rng)
        names = [str(chain[: i + 1]) for i in range(len(chain))]
        assert run_chain(pool, chain) == reference.request(names)
        half_life = alrfu.HALF_LIVES[reference.followed]
        assert pool.policy.get_stats()["half_life"] == half_life
        followed.add(half_life)
        cached = [block for block in pool.pool.blocks if block.block_hash is not None]
        assert len(cached) == len(reference.cached)
    assert len(followed) > 1, "it never adapted, so that little was tried"


@settings(max_examples=60, deadline=None)
@given(accesses=st.lists(st.integers(0, 40), max_size=400), capacity=st.integers(1, 14))
def test_with_a_half_life_of_zero_it_is_libcachesims_lru(
    accesses: list[int], capacity: int
) -> None:
    from vllm.v1.core.eviction import alrfu

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alrfu, "HALF_LIVES", (0.0,))
        pool, independent = Pool("alrfu", capacity), IndependentCache("lru", capacity)
        for content in accesses:
            assert pool.access(content) == independent.access(content)


@pytest.mark.parametrize("half_life", [0.0, 1.0, 4.0, 16.0])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_cached_block_can_be_reached(
    half_life: float, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.core.eviction import alrfu

    monkeypatch.setattr(alrfu, "HALF_LIVES", (half_life,))
    rng = random.Random(f"{half_life}/{batch_size}")
    assert count_evictions_while_reachable(Pool("alrfu", 50), rng, batch_size) > 1000


def test_other_policies_strand_blocks() -> None:
    # So that the test above can fail.
    stranded = {}
    for policy in ("lru", "arc"):
        rng = random.Random("strand")
        pool = Pool(policy, 20)
        stranded[policy] = 0
        for _ in range(1500):
            run_chain(pool, random_chain(rng))
            stranded[policy] += count_unreachable(pool)
    assert stranded["lru"] == 0 < stranded["arc"]


def test_follows_a_half_life_that_hits_more_and_leaves_it_again() -> None:
    rng = random.Random("adapts")
    pool = Pool("alrfu", 60)
    assert pool.policy.get_stats()["half_life"] == 0
    # A few documents are popular; scans come between.
    for i in range(1500):
        document = rng.randrange(8) if rng.random() < 0.5 else 100 + i
        run_chain(pool, [document * 10 + j for j in range(6)])
    assert pool.policy.get_stats()["half_life"] > 0
    # Then every document is asked for a few times, soon, and never again.
    for i in range(1500):
        document = 10_000 + i // 3 - rng.randrange(4)
        run_chain(pool, [document * 10 + j for j in range(6)])
    assert pool.policy.get_stats()["half_life"] == 0


def test_ghosts_are_bounded() -> None:
    from vllm.v1.core.eviction import alrfu

    pool = Pool("alrfu", 30)
    for i in range(3000):
        run_chain(pool, [i * 10 + j for j in range(5)])
        policy = pool.policy
        gone = sum(not run.blocks for run in policy._runs.values())
        most = alrfu.MAX_GHOSTS * policy.capacity
        # The last request may come on top.
        assert policy.get_stats()["ghosts"] + alrfu.RUN_COST * gone <= most + 5 + alrfu.RUN_COST
    assert policy.get_stats()["ghosts"] > 0


def test_of_two_blocks_with_one_hash_the_spare_one_goes_first() -> None:
    pool = Pool("alrfu", 8)
    first = pool.start(chain_hashes(1, 2))
    assert first is not None
    # Another request computes the same content side by side.
    from support.pool import BLOCK_SIZE, FakeRequest

    second = pool.pool.get_new_blocks(2)
    pool.pool.cache_full_blocks(FakeRequest(chain_hashes(1, 2)), second, 0, 2, BLOCK_SIZE, 0)
    pool.finish(first[0])
    pool.pool.free_blocks(reversed(second))
    for content in (10, 11, 12, 13, 14, 15):
        pool.access(content)
    assert all(pool.pool.get_cached_block(h, [0]) for h in chain_hashes(1, 2))


def test_what_comes_back_from_preemption_is_not_used_once_more() -> None:
    pool = Pool("alrfu", 8)
    run_chain(pool, [1, 2])
    (run,) = pool.policy._runs.values()
    scores = run.scores
    started = pool.start(chain_hashes(1, 2), num_own=2)
    assert started is not None
    pool.finish(started[0])
    (run,) = pool.policy._runs.values()
    assert run.scores == scores
    run_chain(pool, [1, 2])
    (run,) = pool.policy._runs.values()
    assert all(map(float.__gt__, run.scores, scores))


def test_use_of_a_block_in_use_counts() -> None:
    pool = Pool("alrfu", 8)
    holder = pool.start(chain_hashes(1))
    assert holder is not None
    (run,) = pool.policy._runs.values()
    scores = run.scores
    pool.access(1)
    (run,) = pool.policy._runs.values()
    assert all(map(float.__gt__, run.scores, scores))
    pool.finish(holder[0])
