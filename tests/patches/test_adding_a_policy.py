"""The worked example of ADDING-A-POLICY.md, LRFU, does what that page says."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import lrfu
from support.pool import Pool, chain_hashes


@pytest.fixture(autouse=True)
def _registered(adding_a_policy: Path) -> None:
    lrfu.register(adding_a_policy)


class _ReferenceLRFU:
    """LRFU by its definition: a sum over all uses, no logarithm, no heap."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.taken = 0
        self.freed = 0
        self.uses: dict[int, list[float]] = {}
        self.resident: dict[int, int] = {}
        self.history: list[int] = []

    def _score(self, content: int) -> float:
        now = self.taken / self.capacity
        return sum(2.0 ** (time - now) for time in self.uses[content])

    def access(self, content: int) -> bool:
        hit = content in self.resident
        if hit:
            self.uses[content].append(self.taken / self.capacity)
        else:
            if content in self.history:
                self.history.remove(content)
                self.taken += 1
                self.uses[content].append(self.taken / self.capacity)
            else:
                self.taken += 1
                self.uses[content] = [self.taken / self.capacity]
            if len(self.resident) == self.capacity:
                victim = min(self.resident, key=lambda c: (self._score(c), self.resident[c]))
                for other in self.resident:
                    # Other uses that come to the same score: rounding decides between them.
                    if self.uses[other] != self.uses[victim]:
                        assume(not math.isclose(self._score(other), self._score(victim)))
                del self.resident[victim]
                self.history = [*self.history, victim][-self.capacity :]
        self.freed += 1
        self.resident[content] = self.freed
        return hit


@settings(max_examples=100, deadline=None)
@given(
    capacity=st.integers(1, 8),
    accesses=st.lists(st.integers(0, 20), max_size=200),
)
def test_follows_its_definition(capacity: int, accesses: list[int]) -> None:
    pool, reference = Pool(lrfu.NAME, capacity), _ReferenceLRFU(capacity)
    for content in accesses:
        assert pool.access(content) == reference.access(content)


def test_frequent_block_outlives_recent_ones() -> None:
    pool = Pool(lrfu.NAME, 8)
    for _ in range(4):
        pool.access(1)
    for content in range(10, 22):
        pool.access(content)
    assert pool.access(1)


def test_score_survives_eviction_and_history_is_bounded() -> None:
    pool = Pool(lrfu.NAME, 4)
    for content in (1, 1, 1, *range(10, 40)):
        pool.access(content)
    assert pool.policy.get_stats() == {"blocks": 4, "history": 4}
    pool.access(35)  # Evicted not long ago.
    assert max(pool.policy._scores) > pool.policy._time


def test_tail_goes_before_head() -> None:
    pool = Pool(lrfu.NAME, 4)
    started = pool.start(chain_hashes(1, 2, 3, 4))
    assert started is not None
    pool.finish(started[0])
    order = [block.block_id for block in pool.policy.eviction_order()]
    assert order == [block.block_id for block in reversed(started[0])]


def test_heap_stays_small_so_that_a_use_is_logarithmic() -> None:
    pool = Pool(lrfu.NAME, 50)
    for i in range(1000):
        pool.access(i % 60 if i % 3 else 1)
        assert len(pool.policy._heap) <= 2 * 50


def test_scores_stay_finite() -> None:
    policy: Any = Pool(lrfu.NAME, 4).policy
    policy._time = 1e6
    assert math.isfinite(policy._use(0.0))
    assert policy._use(1e6) == 1e6 + 1
