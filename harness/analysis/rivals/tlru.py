"""Tail-optimised LRU (Zhang et al., NeurIPS '25, arXiv 2510.15152), told the future.

It is made for the slowest requests, not for the hit rate. Of a conversation it keeps what the next
turn needs so that no more than a budget of its tokens has to be computed. Blocks beyond go first,
the least recently used of them, and then the rest as under LRU.

How long the next turn will be, and whether there will be one, an engine does not know. Here it is
told both, from the trace (the authors' length-aware and end-aware T-LRU): the next turn is the
first request that goes on from this one (``conversations``). Of a conversation that is over, all
may go; doc-QA has none, so that nothing is known and this is LRU. A block is held to the last
request that used it. The budget is the authors' target of 200 ms, in tokens by the line of TTFT
that the cost model fits on the paper that is reproduced.
"""

import math

from typing_extensions import override

from harness.analysis import costmodel
from harness.analysis.rivals.chains import Chains, Piece, PrefixCache
from harness.analysis.rivals.conversations import previous

_TARGET_MS = 200


class TailLRU(PrefixCache):
    """What the next turn can do without goes first."""

    def __init__(self, chains: Chains, cache_blocks: int) -> None:
        super().__init__(chains, cache_blocks)
        self._kept = _kept(chains, _budget())

    def _free(self, piece: Piece) -> int:
        return min(piece.size, piece.end - self._kept[piece.user])

    @override
    def key(self, piece: Piece) -> bool:
        return self._free(piece) <= 0

    @override
    def alike(self, piece: Piece) -> int:
        free = self._free(piece)
        return free if free > 0 else piece.size


def _budget() -> int:
    """Return how many tokens can be computed within the target."""
    line = costmodel.of_papers_tokens()
    return int((_TARGET_MS - line.base_ms) / line.ms_per_token)


def _kept(chains: Chains, budget: int) -> list[int]:
    """Return how many blocks of each request its next turn needs."""
    after = [0] * len(chains.requests)
    for request, before in zip(reversed(chains.requests), reversed(previous(chains)), strict=True):
        if before is not None:
            after[before] = request.prompt_tokens - budget
    return [max(0, math.ceil(tokens / chains.block_size)) for tokens in after]
