"""LRFU (Lee et al., IEEE Transactions on Computers 50(12), 2001) with a half-life that is fixed.

A use counts 1 and half as much after each half-life, and what counts least goes first. A half-life
that is very short makes it LRU, one that is very long LFU. The authors give lambda, half to the
power of which a use is worth after one more: its inverse is the half-life. As theirs, it forgets
what it evicts.
"""

import math
from typing import ClassVar

from typing_extensions import override

from harness.analysis.rivals.chains import Chains, Piece, PrefixCache


class LRFU(PrefixCache):
    """What was used least goes first, where uses fade."""

    turnovers: ClassVar[float]
    """Half-life, in as many blocks asked for as the cache has blocks."""

    def __init__(self, chains: Chains, cache_blocks: int) -> None:
        super().__init__(chains, cache_blocks)
        self._half_life = self.turnovers * cache_blocks

    @override
    def used(self, piece: Piece) -> None:
        # The logarithm of what it will be worth long from now, which does not change with time.
        fresh = self.now / self._half_life
        is_new = piece.uses == 1
        piece.score = fresh if is_new else fresh + math.log2(1 + 2 ** (piece.score - fresh))

    @override
    def key(self, piece: Piece) -> float:
        return piece.score


class LRFU1(LRFU):
    """A half-life of one turnover of the cache."""

    turnovers = 1


class LRFU4(LRFU):
    """A half-life of four turnovers of the cache."""

    turnovers = 4


class LRFU16(LRFU):
    """A half-life of sixteen turnovers of the cache."""

    turnovers = 16
