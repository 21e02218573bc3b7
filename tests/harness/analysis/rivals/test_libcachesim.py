import heapq
import random
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Protocol

import pytest

from harness.analysis.bounds import Bounds
from harness.analysis.hitrate import HitCounter, HitRate
from harness.analysis.rivals import libcachesim as rivals
from harness.errors import HarnessError
from workloads.file import BlockRequest, BlockWorkload, Header

_BLOCK = 16
_CACHES = (rivals.MIN_BLOCKS, 250, 600)


class _Cache(Protocol):
    def __init__(self, capacity: int) -> None: ...

    def __contains__(self, block: int) -> bool: ...

    def use(self, block: int) -> None: ...


class _LRU:
    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def __contains__(self, block: int) -> bool:
        return block in self._blocks

    def use(self, block: int) -> None:
        self._blocks.pop(block, None)
        if len(self._blocks) == self._capacity:
            self._blocks.popitem(last=False)
        self._blocks[block] = None


class _LFU:
    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._uses: dict[int, tuple[int, int]] = {}  # block: number of uses, time of the last
        self._heap: list[tuple[tuple[int, int], int]] = []
        self._time = 0

    def __contains__(self, block: int) -> bool:
        return block in self._uses

    def use(self, block: int) -> None:
        self._time += 1
        while block not in self and len(self._uses) == self._capacity:
            uses, victim = heapq.heappop(self._heap)
            if self._uses.get(victim) == uses:
                del self._uses[victim]
        self._uses[block] = (self._uses.get(block, (0, 0))[0] + 1, self._time)
        heapq.heappush(self._heap, (self._uses[block], block))


class _Sieve:
    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: list[int] = []  # oldest first
        self._visited: dict[int, bool] = {}
        self._hand = 0

    def __contains__(self, block: int) -> bool:
        return block in self._visited

    def use(self, block: int) -> None:
        if block in self:
            self._visited[block] = True
            return
        if len(self._blocks) == self._capacity:
            while self._visited[self._blocks[self._hand]]:
                self._visited[self._blocks[self._hand]] = False
                self._hand = (self._hand + 1) % self._capacity
            del self._visited[self._blocks.pop(self._hand)]
            self._hand %= len(self._blocks)
        self._blocks.append(block)
        self._visited[block] = False


class _TwoQ:
    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._in: OrderedDict[int, None] = OrderedDict()
        self._ghosts: OrderedDict[int, None] = OrderedDict()
        self._main: OrderedDict[int, None] = OrderedDict()

    def __contains__(self, block: int) -> bool:
        return block in self._in or block in self._main

    def use(self, block: int) -> None:
        if block in self._main:
            self._main.move_to_end(block)
        if block in self:
            return
        known = block in self._ghosts
        self._ghosts.pop(block, None)
        if len(self._in) + len(self._main) == self._capacity:
            if len(self._in) > self._capacity // 4:
                self._ghosts[self._in.popitem(last=False)[0]] = None
                if len(self._ghosts) > self._capacity // 2:
                    self._ghosts.popitem(last=False)
            else:
                self._main.popitem(last=False)
        (self._main if known else self._in)[block] = None


def _workload(
    documents: int = 400, shortest: int = 1, longest: int = 8, seed: int = 1, warm_up: int = 0
) -> BlockWorkload:
    """Questions about documents of so many blocks, whose popularity changes twice."""
    rng = random.Random(seed)
    requests = 3000
    lengths = [rng.randint(shortest, longest) for _ in range(documents)]
    starts = [sum(lengths[:i]) for i in range(documents)]
    ranking = list(range(documents))
    weights = list(accumulate(1 / (rank + 1) for rank in range(documents)))
    built = []
    for number in range(requests):
        if number % (requests // 3) == 0:
            rng.shuffle(ranking)
        document = rng.choices(ranking, cum_weights=weights)[0]
        built.append(
            BlockRequest(
                request=number,
                prompt_tokens=(lengths[document] + 1) * _BLOCK + rng.randrange(_BLOCK),
                output_tokens=1,
                runs=((starts[document], lengths[document]), (10_000 + 2 * number, 1)),
            )
        )
    header = Header(
        content="blocks",
        name="w",
        seed=seed,
        block_size=_BLOCK,
        requests=requests,
        warm_up=warm_up,
        params={},
    )
    return BlockWorkload(header, tuple(built))


def _expected(workload: BlockWorkload, cache: _Cache) -> HitRate:
    counter = HitCounter(_BLOCK)
    for number, request in enumerate(workload.requests):
        blocks = list(request.blocks())
        if number >= workload.header.warm_up:
            leading = 0
            while leading < len(blocks) and blocks[leading] in cache:
                leading += 1
            counter.count(request.prompt_tokens, leading, sum(block in cache for block in blocks))
        for block in reversed(blocks):
            cache.use(block)
    return counter.rate


@pytest.mark.parametrize("cache_blocks", _CACHES)
@pytest.mark.parametrize(
    ("name", "reference"), [("lru", _LRU), ("lfu", _LFU), ("sieve", _Sieve), ("2q", _TwoQ)]
)
def test_policy_does_what_its_paper_says(
    name: str, reference: type[_Cache], cache_blocks: int
) -> None:
    workload = _workload()
    rate = rivals.replay(workload, name, cache_blocks)
    assert rate == _expected(workload, reference(cache_blocks))
    assert rate.prefix > 0.02


@pytest.mark.parametrize("name", rivals.NAMES)
def test_results_are_the_same_on_every_run(name: str) -> None:
    workload = _workload()
    first = rivals.replay(workload, name, 250)
    rivals.replay(_workload(seed=2), "lecar", 100)
    assert rivals.replay(workload, name, 250) == first
    with ThreadPoolExecutor(max_workers=2) as threads:
        both = list(threads.map(lambda _: rivals.replay(workload, name, 250), range(2)))
    assert both == [first, first]


@pytest.mark.parametrize("name", rivals.NAMES)
@pytest.mark.parametrize("cache_blocks", _CACHES)
def test_no_policy_beats_the_optimum(name: str, cache_blocks: int) -> None:
    workload = _workload()
    rate, best = rivals.replay(workload, name, cache_blocks), Bounds(workload).optimum(cache_blocks)
    assert 0 < rate.prefix < best.prefix
    assert rate.prefix <= rate.per_block < best.per_block


def test_policies_differ() -> None:
    workload = _workload()
    rates = {rivals.replay(workload, name, 250) for name in rivals.NAMES}
    assert len(rates) == len(rivals.NAMES)


def test_long_prompts_freeze_lfu_and_sieve_alike() -> None:
    workload = _workload(documents=60, shortest=20, longest=60)
    lfu, sieve, lru = (rivals.replay(workload, name, 250) for name in ("lfu", "sieve", "lru"))
    assert lfu == sieve
    assert lfu.prefix < lru.prefix


def test_warm_up_fills_the_cache_and_is_not_counted() -> None:
    workload = _workload(warm_up=500)
    rate = rivals.replay(workload, "lru", 600)
    assert rate == _expected(workload, _LRU(600))
    assert rate != rivals.replay(_workload(), "lru", 600)


def test_wrong_use_is_refused() -> None:
    with pytest.raises(HarnessError, match="99 blocks is too small"):
        rivals.replay(_workload(), "lru", 99)
