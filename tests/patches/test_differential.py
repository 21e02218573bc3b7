"""Decision for decision: our reference against libcachesim, the patched pool against both."""

import csv
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.independent import MIN_CAPACITY, IndependentCache
from support.pool import Pool
from support.reference import ReferenceARC

_GOLDEN = Path(__file__).with_name("golden_misses.csv")


def _traces(policy: str = "lru") -> st.SearchStrategy[tuple[int, list[int]]]:
    """Return capacities with access sequences over about three times as many contents."""
    # Segments of whole blocks: libcachesim's SLRU and ours round differently.
    step = 5 if policy == "slru" else 1
    capacities = st.integers(MIN_CAPACITY[policy], MIN_CAPACITY[policy] + 12)
    return capacities.map(lambda c: c // step * step).flatmap(
        lambda c: st.tuples(st.just(c), st.lists(st.integers(0, 3 * c + 2), max_size=500))
    )


@settings(max_examples=100, deadline=None)
@given(trace=_traces())
def test_reference_arc_follows_libcachesim(trace: tuple[int, list[int]]) -> None:
    capacity, accesses = trace
    reference, independent = ReferenceARC(capacity), IndependentCache("arc", capacity)
    for content in accesses:
        assert reference.access(content) == independent.access(content)


@pytest.mark.parametrize("policy", ["arc", "dbl"])
@settings(max_examples=150, deadline=None)
@given(trace=_traces())
def test_pool_follows_the_reference_in_every_size(
    policy: str, trace: tuple[int, list[int]]
) -> None:
    capacity, accesses = trace
    reference = ReferenceARC(capacity, capacity / 2 if policy == "dbl" else None)
    pool = Pool(policy, capacity)
    for content in accesses:
        assert pool.access(content) == reference.access(content)
        assert pool.policy.get_stats() == reference.get_stats()


@pytest.mark.parametrize("policy", MIN_CAPACITY)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_pool_follows_libcachesim(policy: str, data: st.DataObject) -> None:
    capacity, accesses = data.draw(_traces(policy))
    pool, independent = Pool(policy, capacity), IndependentCache(policy, capacity)
    for content in _fill(policy, capacity) + accesses:
        assert pool.access(content) == independent.access(content)


def _fill(policy: str, capacity: int) -> list[int]:
    """Return accesses that fill both caches alike where they differ while they fill.

    Into an SLRU that is not full, libcachesim puts new objects wherever there is room, also in the
    protected segment; ours, as Karedla et al. do, always in the probationary one.
    """
    if policy != "slru":
        return []
    probation = capacity // 5
    protected = capacity * 4 // 5
    contents = range(1000, 1000 + capacity)
    twice = [content for content in contents[:protected] for _ in range(2)]
    return twice + list(contents[protected : protected + probation])


def _golden_trace() -> list[int]:
    """Return 20,000 accesses: Zipf over 1,000 contents, reshuffled now and then, and two scans."""
    rng = random.Random("golden")
    accesses: list[int] = []
    for part in range(4):
        contents = list(range(1000))
        rng.shuffle(contents)
        weights = [1 / (rank + 1) for rank in range(1000)]
        accesses += rng.choices(contents, weights, k=4500)
        accesses += range(10_000 + part % 2 * 500, 10_500 + part % 2 * 500)
    return accesses


def _golden_rows() -> list[dict[str, str]]:
    """Return the expected misses, each with the implementation that counted them."""
    with _GOLDEN.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "row", _golden_rows(), ids=lambda row: f"{row['policy']}-{row['capacity']}"
)
def test_golden_miss_counts(row: dict[str, str]) -> None:
    pool = Pool(row["policy"], int(row["capacity"]))
    assert sum(not pool.access(content) for content in _golden_trace()) == int(row["misses"])
