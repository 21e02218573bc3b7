"""LRU-2 (O'Neil, O'Neil and Weikum, SIGMOD '93): the second last use decides.

Blocks used once go first, of these the least recently used. When it was used is remembered of every
block, cached or not; the authors forget it after a while that has to be chosen. All uses by one
request are one, so that none of them is correlated.
"""

import math

from typing_extensions import override

from harness.analysis.rivals.chains import Chains, Piece, PrefixCache


class LRU2(PrefixCache):
    """What was used a second last time longest ago goes first."""

    def __init__(self, chains: Chains, cache_blocks: int) -> None:
        super().__init__(chains, cache_blocks)
        self._last: dict[int, tuple[float, float]] = {}  # [stretch]: the last use, the one before

    @override
    def used(self, piece: Piece) -> None:
        last, before = self._last.get(piece.stretch, (-math.inf, -math.inf))
        if last < self.now:
            last, before = self.now, last
            self._last[piece.stretch] = last, before
        piece.score = before

    @override
    def key(self, piece: Piece) -> float:
        return piece.score
