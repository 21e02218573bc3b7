"""Segmented LRU with ghosts, as proposed for vLLM's offloading (pull request 38984).

A block comes in on probation, and is protected from its second use on. At most 80 % of the cache
are protected; the least recently used of more goes back on probation, as the most recent. Eviction
takes the least recent on probation, and only then of the protected. Of what it takes there it
remembers as many as the cache has blocks: such a block is protected at once when it comes back.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import override

from harness.analysis.rivals.chains import Chains, Piece, PrefixCache

_PROTECTED = 0.8


@dataclass(slots=True)
class _Ghosts:
    """Blocks of a stretch that were evicted, of a depth above ``above`` and up to ``end``."""

    above: int
    end: int


class GhostSLRU(PrefixCache):
    """What was used once goes first."""

    def __init__(self, chains: Chains, cache_blocks: int) -> None:
        super().__init__(chains, cache_blocks)
        self._protected: OrderedDict[Piece, None] = OrderedDict()  # least recent first
        self._room = int(_PROTECTED * cache_blocks)  # for more protected blocks
        self._ghosts: deque[_Ghosts] = deque()  # oldest first, and of each the deepest first
        self._of_stretch: defaultdict[int, list[_Ghosts]] = defaultdict(list)
        self._ghost_room = cache_blocks
        self._moves = 0

    @override
    def used(self, piece: Piece) -> None:
        if piece.uses > 1:
            self._protect(piece)
            return
        rest: Piece | None = piece
        for ghosts in self._of_stretch.pop(piece.stretch, ()):
            rest = self._below(rest, ghosts.end, self._move)
            rest = self._below(rest, ghosts.above, self._protect)
            self._ghost_room += ghosts.end - ghosts.above
            ghosts.end = ghosts.above
        if rest is not None:
            self._move(rest)

    def _below(
        self, piece: Piece | None, depth: int, note: Callable[[Piece], None]
    ) -> Piece | None:
        """Note the blocks of a piece that are deeper than this; return the others, if any."""
        if piece is None or piece.end <= depth:
            return piece
        blocks = piece.end - depth
        front = self.split(piece, blocks) if blocks < piece.size else None
        note(piece)
        return front

    def _move(self, piece: Piece) -> None:
        """Make a piece the most recent of where it is."""
        self._moves += 1
        piece.score = self._moves

    def _protect(self, piece: Piece) -> None:
        self._move(piece)
        if piece in self._protected:
            self._protected.move_to_end(piece)
            return
        self._protected[piece] = None
        self._room -= piece.size
        while self._room < 0:
            oldest, _ = self._protected.popitem(last=False)
            blocks = min(oldest.size, -self._room)
            if blocks < oldest.size:
                front = self.split(oldest, blocks)
                self._protected[front] = None
                self._protected.move_to_end(front, last=False)
            self._room += blocks
            self._move(oldest)

    @override
    def evicted(self, piece: Piece, blocks: int) -> None:
        if piece not in self._protected:
            return
        self._room += blocks
        if blocks == piece.size:
            del self._protected[piece]
        gone = _Ghosts(piece.end - blocks, piece.end)
        self._ghosts.append(gone)
        self._of_stretch[piece.stretch].append(gone)
        self._ghost_room -= blocks
        while self._ghost_room < 0:
            oldest = self._ghosts[0]
            forgotten = min(oldest.end - oldest.above, -self._ghost_room)
            oldest.end -= forgotten
            self._ghost_room += forgotten
            if oldest.end == oldest.above:
                self._ghosts.popleft()

    @override
    def key(self, piece: Piece) -> tuple[bool, float]:
        return piece in self._protected, piece.score
