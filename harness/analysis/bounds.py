"""What no online policy can beat: the offline optimum, an endless cache, and known popularity."""

import heapq
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harness.analysis.hitrate import HitCounter, HitRate
from harness.errors import HarnessError
from workloads.file import BlockWorkload

# For each request: who hits its blocks next, as (number of that request, blocks).
_NextHits = list[list[tuple[int, int]]]


class Bounds:
    """The best that any policy can do with one sequence of requests.

    Reading the workload takes time and 4 bytes for each id up to the largest; the methods are fast.

    Args:
        workload: A workload of blocks. Its warm-up is replayed but not counted.

    """

    def __init__(self, workload: BlockWorkload) -> None:
        block_size = workload.header.block_size
        assert block_size is not None, "a workload of blocks without their size"
        self._block_size = block_size
        self._prompts = [request.prompt_tokens for request in workload.requests]
        self._needed = [
            math.ceil((request.prompt_tokens + request.output_tokens - 1) / block_size)
            for request in workload.requests
        ]
        self._warm_up = workload.header.warm_up
        self._prefix: _NextHits = [[] for _ in workload.requests]
        self._per_block: _NextHits = [[] for _ in workload.requests]

        ids = max((sum(run) for request in workload.requests for run in request.runs), default=0)
        last = np.full(ids, -1, dtype=np.int32)  # [id]: the latest request that had this block
        for number, request in enumerate(workload.requests):
            runs = [last[first : first + count] for first, count in request.runs]
            if number >= self._warm_up:
                before = np.concatenate([last[:0], *runs])
                usable = (request.prompt_tokens - 1) // block_size
                _link(self._prefix, before[:usable], number)
                _link(self._per_block, before, number)
            for run in runs:
                run[:] = number

    def optimum(self, cache_blocks: int) -> HitRate:
        """Return the offline optimum, of a policy that knows all requests to come.

        The model is this engine with one request at a time, in the order of the workload:

        - While a request runs, the blocks of all its tokens but the last, which is never an input,
          are in the cache at once: hits, new full blocks, and those of the rest of the prompt and
          of the output, which nobody asks for again.
        - Else the policy is free. It may drop any block whenever it likes, and so need not keep
          what a request leaves behind.
        - A request hits its full blocks that are in the cache when it starts. The prefix hit rate
          leaves out a last block that has the last token of the prompt, the per-block rate
          does not.

        A block is worth its room from one request that has it to the next one that has it, if that
        one can hit it; each such stay takes one block of room from the requests between and earns
        one hit. Whenever blocks have to go, those go whose stay would end last (Belady's MIN, IBM
        Systems Journal 5(2), 1966): of two stays that both need the room now, the one that ends
        later takes at least as much room from later requests, and earns no more.

        The hits are a prefix. Whoever has a block has all blocks before it, which therefore are
        asked for again no later; of those asked for again by the same request the deepest go first.
        So a request finds its blocks but the deepest of them, and it suffices to count, for each
        request to come, the blocks kept for it.

        Each of the two rates is the greatest possible. One policy reaches both, unless a prompt
        is a whole number of blocks: its last block then counts for one of them alone.

        With several requests at a time this is not exact: they hold their blocks together, which
        leaves less room, and one that starts may not find what another is still computing.

        Args:
            cache_blocks: Blocks of the cache, all of which can be used.

        Raises:
            HarnessError: if the cache is too small to run one of the requests.

        """
        for number, needed in enumerate(self._needed):
            if needed > cache_blocks:
                raise HarnessError(
                    f"request {number} needs {needed} blocks, but the cache has {cache_blocks}: "
                    "it cannot run; choose a larger cache or shorter requests"
                )
        return self._rate(cache_blocks)

    def infinite(self) -> HitRate:
        """Return the hit rate of a cache that never evicts: all but the first use of a block."""
        return self._rate(math.inf)

    def _rate(self, cache_blocks: float) -> HitRate:
        counter = HitCounter(self._block_size)
        prefix = self._hits(self._prefix, cache_blocks)
        per_block = self._hits(self._per_block, cache_blocks)
        for number in range(self._warm_up, len(self._prompts)):
            counter.count(self._prompts[number], prefix[number], per_block[number])
        return counter.rate

    def _hits(self, next_hits: _NextHits, cache_blocks: float) -> list[int]:
        """Return the blocks that each request hits if the stays that end last are given up."""
        kept = [0] * len(next_hits)  # [request to come]: blocks in the cache for it
        total = 0
        latest: list[int] = []  # heap: the requests that blocks are kept for, negated
        hits = []
        for number, needed in enumerate(self._needed):
            hits.append(kept[number])
            total -= kept[number]
            kept[number] = 0
            while total > cache_blocks - needed:
                last = -latest[0]
                given_up = min(kept[last], int(total - cache_blocks + needed))
                kept[last] -= given_up
                total -= given_up
                if not kept[last]:
                    heapq.heappop(latest)
            for request, blocks in next_hits[number]:
                if not kept[request]:
                    heapq.heappush(latest, -request)
                kept[request] += blocks
                total += blocks
        return hits


def _link(next_hits: _NextHits, before: npt.NDArray[np.int32], number: int) -> None:
    """Have each request know which of its blocks the request ``number`` hits next.

    Args:
        next_hits: To be added to.
        before: Blocks that the request can hit: for each, the latest request before that had it.
        number: The request.

    """
    requests, blocks = np.unique(before[before >= 0], return_counts=True)
    for request, count in zip(requests.tolist(), blocks.tolist(), strict=True):
        next_hits[request].append((number, count))


def known_popularity(
    probabilities: Sequence[Sequence[float]],
    blocks: Sequence[float],
    tokens: Sequence[float],
    cache_blocks: int,
    block_size: int,
) -> HitRate:
    """Return the hit rate to expect of a policy that knows what is popular, but not who comes next.

    Each request draws what it asks for independently of all others. Whatever the policy, its
    cache is filled before the draw, so no contents are better than the blocks that are most likely
    to be drawn (A_0 of Aho, Denning and Ullman, Journal of the ACM 18(1), 1971, without their rule
    that what was just used must stay). Left out are the first use of a block, the room that the
    running request takes, and that the last token of a prompt is always computed: hence a bound,
    on the expectation. One sequence of requests may do better by chance.

    A prompt is made of *contents* drawn together, in doc-QA a document and, as one content, that
    document with one of its questions. A content has the full blocks that are not those of another
    content, and has no block without those before it, which are at least as popular: so the hits
    are a prefix.

    Args:
        probabilities: [window][content]: how likely a request of this window asks for the content.
            There are as many requests in each window.
        blocks: [content]: its number of full blocks, or their mean.
        tokens: [content]: the tokens that it adds to a prompt, or their mean.
        cache_blocks: Blocks of the cache.
        block_size: Tokens a block.

    """
    sizes = np.asarray(blocks)
    hit_blocks = queried_blocks = prompt_tokens = 0.0
    for window in probabilities:
        likely = np.asarray(window)
        order = np.argsort(-likely, kind="stable")
        kept = np.diff(np.minimum(np.cumsum(sizes[order]), cache_blocks), prepend=0)
        hit_blocks += float(likely[order] @ kept)
        queried_blocks += float(likely @ sizes)
        prompt_tokens += float(likely @ np.asarray(tokens))
    return HitRate(
        prefix=hit_blocks * block_size / prompt_tokens, per_block=hit_blocks / queried_blocks
    )
