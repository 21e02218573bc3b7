"""Workload-aware eviction (Wang et al., USENIX ATC '25, arXiv 2506.02634), told the future.

The authors find that how soon a block is used again is exponentially distributed, and differs by
category of the request, which is its type and its turn. What is least likely to be used again
within the time that a block stays in the cache goes first, of equally likely blocks the deepest.

No workload here tells a type, so the category is the turn alone, ten and more being one, counted by
the requests that this one goes on from (``conversations``). Doc-QA has no conversations, and this
is LRU there. The distributions are those of the whole trace, to come, too; the authors fit them on
what was seen of late. A block's stay is the mean of the times from last use to eviction so far.
"""

import math
from typing import NamedTuple

from typing_extensions import override

from harness.analysis.rivals.chains import Chains, Piece, PrefixCache, Request
from harness.analysis.rivals.conversations import previous

_LAST_TURN = 10


class WorkloadAware(PrefixCache):
    """What is least likely to be used soon goes first."""

    def __init__(self, chains: Chains, cache_blocks: int) -> None:
        super().__init__(chains, cache_blocks)
        self._turns = _turns(chains)
        self._reuses = _reuses(chains, self._turns)
        self._stay = float(cache_blocks)
        self._stays = self._gone = 0

    @override
    def evicted(self, piece: Piece, blocks: int) -> None:
        self._stays += (self.now - piece.last) * blocks
        self._gone += blocks

    @override
    def run(self, request: Request) -> int:
        hits = super().run(request)
        if self._gone:
            # While it runs, what a block is worth stays as it is.
            self._stay = self._stays / self._gone
        return hits

    @override
    def key(self, piece: Piece) -> tuple[float, int]:
        reuse = self._reuses[self._turns[piece.user]]
        return reuse.probability(self.now - piece.last, self._stay), -piece.end


class _Reuse(NamedTuple):
    share: float
    mean: float

    def probability(self, after: float, within: float) -> float:
        """Return how likely a use within a time is, so long after the last one."""
        if not self.share:
            return 0
        return self.share * (math.exp(-after / self.mean) - math.exp(-(after + within) / self.mean))


def _turns(chains: Chains) -> list[int]:
    """Return the turn of each request, from 1."""
    turns: list[int] = []
    for before in previous(chains):
        turns.append(1 if before is None else min(turns[before] + 1, _LAST_TURN))
    return turns


def _reuses(chains: Chains, turns: list[int]) -> dict[int, _Reuse]:
    """Return, of each turn, the share of blocks used again, and the mean time till then."""
    used, again, waited = (dict.fromkeys(turns, 0) for _ in range(3))
    last: dict[int, tuple[int, int]] = {}  # [stretch]: time and turn of the last use
    now = 0
    for request, turn in zip(chains.requests, turns, strict=True):
        for stretch in request.stretches:
            size = chains.sizes[stretch]
            used[turn] += size
            if stretch in last:
                since, then = last[stretch]
                again[then] += size
                waited[then] += size * (now - since)
            last[stretch] = now, turn
        now += request.blocks
    return {
        turn: _Reuse(again[turn] / used[turn], waited[turn] / again[turn])
        if again[turn]
        else _Reuse(0, 0)
        for turn in used
    }
