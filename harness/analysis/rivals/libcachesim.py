"""Eviction policies from the literature, replayed at block level by libcachesim 0.3.5.

Each block is an object of its own to them, and they know nothing of prefixes. Unlike
in the engine, a request that runs holds none of its blocks, and what is neither a full block nor
of the prompt takes no room.

LRU and ARC are here to be held against the engine's; the others are

- ``lfu``: what was used least often since it came in goes first, of these the least recent;
- ``sieve``: SIEVE (Zhang et al., NSDI '24);
- ``2q``: 2Q (Johnson and Shasha, VLDB '94), a quarter for blocks used once and ghosts of half;
- ``lirs``: LIRS (Jiang and Zhang, SIGMETRICS '02), 1 % for blocks of high recency. It may hold up
  to three blocks too many;
- ``lecar``: LeCaR (Vietri et al., HotStorage '18). It draws random numbers, and forgets how often
  an evicted block was used, which the authors' code remembers.

On doc-QA and Mooncake, blocks used twice soon fill ``lfu`` and ``sieve`` but for less than a
prompt, which nothing gets out of again: the two then decide alike. These of libcachesim's are left
out, as they are not what their papers say:

- ``ClockPro`` never uses the half of the cache that it sets apart for hot blocks;
- ``Cacheus`` divides its hits by its requests as integers, so that its learning rate never sees
  a hit rate other than 0;
- ``LRUK`` keeps no history of evicted blocks, without which few get a second use; on doc-QA it
  does what LFU does;
- ``WTinyLFU`` counts a miss twice, ages its sketch by hits alone, and sizes it by the cache: so the
  sketch overfills, and its prefix hit rate on doc-QA is a third to a half of that with exact
  counts.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import libcachesim  # type: ignore[import-untyped]
from libcachesim.cache import CacheBase  # type: ignore[import-untyped]

from harness.analysis.hitrate import HitCounter, HitRate
from harness.errors import HarnessError
from workloads.file import BlockWorkload

NAMES: Mapping[str, type[CacheBase]] = {
    "lru": libcachesim.LRU,
    "arc": libcachesim.ARC,
    "lfu": libcachesim.LFU,
    "sieve": libcachesim.Sieve,
    "2q": libcachesim.TwoQ,
    "lirs": libcachesim.LIRS,
    "lecar": libcachesim.LeCaR,
}
# In a cache of a few blocks, 2Q and LIRS take nothing in, or hold far more than fits.
MIN_BLOCKS = 100


def replay(workload: BlockWorkload, name: str, cache_blocks: int) -> HitRate:
    """Replay a workload through a policy and return its hit rates.

    Each request first looks up all its full blocks, which changes nothing, and then uses them from
    the last to the first, so that the first is the most recent: in this order the engine frees
    them. Results are the same on every run.

    Args:
        workload: A workload of blocks. Its warm-up is replayed but not counted.
        name: One of ``NAMES``.
        cache_blocks: Blocks of the cache, at least ``MIN_BLOCKS``.

    Raises:
        HarnessError: if the cache is too small for it.

    """
    if cache_blocks < MIN_BLOCKS:
        raise HarnessError(
            f"a cache of {cache_blocks} blocks is too small to compare policies at block level; "
            f"choose at least {MIN_BLOCKS}"
        )
    # libcachesim's random numbers start anew in each thread, and only there.
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(_replay, workload, NAMES[name], cache_blocks).result()


def _replay(workload: BlockWorkload, policy: type[CacheBase], cache_blocks: int) -> HitRate:
    block_size = workload.header.block_size
    assert block_size is not None, "a workload of blocks without their size"
    # By default its hash tables are of 128 MiB each, which takes longer to fill than to use.
    wrapped = policy(cache_blocks, hashpower=cache_blocks.bit_length() + 1)
    # Past a layer that only forwards, and would take a third of the time.
    cache = wrapped._cache
    most = max((request.num_blocks for request in workload.requests), default=0)
    all_uses = [libcachesim.Request(obj_size=1) for _ in range(most)]
    counter = HitCounter(block_size)
    for number, request in enumerate(workload.requests):
        uses = all_uses[: request.num_blocks]
        for use, block in zip(uses, request.blocks(), strict=True):
            use.obj_id = block
        if number >= workload.header.warm_up:
            # A look-up that changes nothing.
            found = [held is not None for held in map(cache.find, uses, repeat(False))]
            counter.count(request.prompt_tokens, [*found, False].index(False), sum(found))
        for use in reversed(uses):
            cache.get(use)
    return counter.rate
