"""Random use of the patched pool through its public methods never breaks what must hold."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support import lrfu
from support.pool import Pool, chain_hashes, get_ghosts

_CAPACITY = 12


class PoolMachine(RuleBasedStateMachine):
    policy = "arc"

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(self.policy, _CAPACITY)
        self.running: list[tuple[list[bytes], list[Any]]] = []
        self.preempted: list[list[bytes]] = []
        # Blocks of nobody's request, and those of them that others may still read.
        self.held: list[Any] = []
        self.unpinned: set[int] = set()

    def _start(self, hashes: list[bytes], partial: int, num_own: int) -> bool:
        started = self.pool.start(hashes, partial, num_own)
        if started is not None:
            self.running.append((hashes, started[0]))
        return started is not None

    @rule(
        family=st.integers(0, 4),
        length=st.integers(0, 6),
        own=st.integers(0, 2),
        partial=st.integers(0, 2),
    )
    def start(self, family: int, length: int, own: int, partial: int) -> None:
        shared = [family * 10 + i for i in range(length)]
        self._start(chain_hashes(*shared, *range(1000, 1000 + own)), partial, 0)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        _, blocks = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.pool.finish(blocks)

    @precondition(lambda self: self.running)
    @rule()
    def preempt(self) -> None:
        hashes, blocks = self.running.pop()
        self.pool.finish(blocks)
        self.preempted.append(hashes)

    @precondition(lambda self: self.preempted)
    @rule()
    def resume(self) -> None:
        if self._start(self.preempted[-1], 0, len(self.preempted[-1])):
            self.preempted.pop()

    @precondition(lambda self: self.running)
    @rule()
    def decode(self) -> None:
        """A block taken without a hash gets one that nobody announced."""
        from support.pool import BLOCK_SIZE, FakeRequest

        hashes, blocks = self.running[-1]
        if len(blocks) > len(hashes):
            hashes.append(chain_hashes(77, len(hashes))[1])
            self.pool.pool.cache_full_blocks(
                FakeRequest(hashes), blocks, len(hashes) - 1, len(hashes), BLOCK_SIZE, 0
            )

    @precondition(lambda self: self.pool.pool.get_num_free_blocks())
    @rule()
    def hold(self) -> None:
        self.held += self.pool.pool.get_new_blocks(1)

    @precondition(lambda self: self.pool.pool.get_num_free_blocks())
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        free = self.pool.pool.free_block_queue.get_all_free_blocks()
        block = free[data.draw(st.integers(0, len(free) - 1))]
        self.pool.pool.touch([block])
        self.unpinned.discard(block.block_id)
        self.held.append(block)

    @precondition(lambda self: self.held)
    @rule()
    def unpin(self) -> None:
        block = self.held.pop()
        self.pool.pool.unpin_blocks([block], lambda b: self.unpinned.discard(b.block_id))
        if block.ref_cnt == 0:
            self.unpinned.add(block.block_id)

    @precondition(lambda self: self.held)
    @rule()
    def let_go(self) -> None:
        self.pool.pool.free_blocks([self.held.pop()])

    @rule(block_ids=st.sets(st.integers(1, _CAPACITY), max_size=3))
    def evict(self, block_ids: set[int]) -> None:
        hashed = {b.block_id for b in self.pool.pool.blocks if b.block_hash is not None}
        self.pool.pool.evict_blocks(block_ids)
        self.unpinned -= block_ids & hashed

    @rule()
    def reset(self) -> None:
        is_idle = not any(blocks for _, blocks in self.running) and not self.held
        assert self.pool.pool.reset_prefix_cache() == is_idle

    @invariant()
    def no_block_is_lost_or_doubled(self) -> None:
        free = [b.block_id for b in self.pool.pool.free_block_queue.get_all_free_blocks()]
        used = {b.block_id for _, blocks in [*self.running, ([], self.held)] for b in blocks}
        assert len(free) == len(set(free)) == self.pool.pool.get_num_free_blocks()
        assert sorted([*free, *used]) == list(range(1, _CAPACITY + 1))

    @invariant()
    def unhashed_free_blocks_come_first(self) -> None:
        free = self.pool.pool.free_block_queue.get_all_free_blocks()
        hashed = [b.block_hash is not None for b in free if b.block_id not in self.unpinned]
        assert hashed == sorted(hashed)

    @invariant()
    def lists_keep_their_bounds(self) -> None:
        policy = self.pool.policy
        stats = policy.get_stats()
        if "p" in stats:
            policy.settle()
            num_b1, num_b2 = map(len, get_ghosts(policy))
            assert stats["t1"] + num_b1 <= _CAPACITY
            assert stats["t1"] + stats["t2"] + num_b1 + num_b2 <= 2 * _CAPACITY
            assert 0 <= stats["p"] <= _CAPACITY
            assert stats["t1"] + stats["b1"] <= _CAPACITY
            assert sum(stats[name] for name in ("t1", "t2", "b1", "b2")) <= 2 * _CAPACITY
        assert stats.get("ghosts", 0) <= _CAPACITY * (8 if self.policy == "alrfu" else 1)

    @invariant()
    def lists_count_every_block_in_use_and_every_hashed_one(self) -> None:
        stats = self.pool.policy.get_stats()
        counted = [
            b
            for b in self.pool.pool.blocks[1:]
            if b.ref_cnt or b.block_hash is not None or b.block_id in self.unpinned
        ]
        resident = ("t1", "t2", "probation", "protected", "small", "main", "blocks")
        assert sum(stats.get(name, 0) for name in resident) == len(counted)
        assert all(bool(b.eviction_list) == (b in counted) for b in self.pool.pool.blocks[1:])

    @invariant()
    def ghosts_are_not_resident(self) -> None:
        self.pool.policy.settle()
        resident = {block.block_hash for block in self.pool.pool.blocks if block.block_hash}
        queues = get_ghosts(self.pool.policy)
        ghosts = set().union(*queues)
        assert not resident & ghosts
        assert len(ghosts) == sum(len(queue) for queue in queues)


@pytest.mark.parametrize("policy", ["arc", "dbl", "slru", "s3fifo", "alrfu", "arcleaf", lrfu.NAME])
def test_pool(policy: str, adding_a_policy: Path) -> None:
    lrfu.register(adding_a_policy)
    machine = type(f"{policy}Machine", (PoolMachine,), {"policy": policy})
    case = machine.TestCase
    case.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
    case("runTest").runTest()


class _Listener:
    """A metrics collector: what has to be told of every block."""

    def __init__(self) -> None:
        self.evicted = 0

    def on_block_evicted(self, block: Any) -> None:
        self.evicted += 1

    def on_block_allocated(self, block: Any) -> None: ...

    def on_block_accessed(self, block: Any) -> None: ...


@pytest.mark.parametrize("policy", ["arc", "slru", "s3fifo", "alrfu"])
def test_many_blocks_at_once_leave_what_one_by_one_does(policy: str) -> None:
    from support.pool import BLOCK_SIZE, FakeRequest

    rng = random.Random("evicted")
    pools = [Pool(policy, _CAPACITY), Pool(policy, _CAPACITY)]
    pools[1].pool.metrics_collector = listener = _Listener()
    pools[1].policy.get_packed = lambda *_: None
    doubled = 0
    for _ in range(600):
        hashes = chain_hashes(*(rng.randrange(3) for _ in range(rng.randrange(1, 7))))
        for pool in pools:
            # The first block is computed twice, and then is in two blocks.
            (block,) = pool.pool.get_new_blocks(1)
            pool.pool.cache_full_blocks(FakeRequest(hashes), [block], 0, 1, BLOCK_SIZE, 0)
            if started := pool.start(hashes):
                pool.finish(started[0])
            pool.pool.free_blocks([block])
        cached = [
            {
                block_hash: sorted(blocks) if isinstance(blocks, dict) else [blocks.block_id]
                for block_hash, blocks in pool.pool.cached_block_hash_to_block._cache.items()
            }
            for pool in pools
        ]
        assert cached[0] == cached[1]
        sizes = [[block.block_hash_num_tokens for block in pool.pool.blocks] for pool in pools]
        assert sizes[0] == sizes[1]
        doubled += any(len(blocks) > 1 for blocks in cached[0].values())
        hashed = [block.block_id for block in pools[0].pool.blocks if block.block_hash is not None]
        assert sorted(b for blocks in cached[0].values() for b in blocks) == hashed
    assert doubled > 50
    assert listener.evicted > 500
