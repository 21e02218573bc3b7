"""A cache of prefixes, whose order of eviction a policy gives.

A request is a chain of blocks, and a block is of use to nobody without those before it: so only
what is at the end of all cached chains is evicted, a chain from its tail on. A request

- looks up its full blocks, which changes nothing, and hits those of its prefix that are there;
- uses these from the last to the first;
- gets room for all its tokens but the last, which is never an input, as in the engine and as the
  bounds count it (``bounds``). Its own blocks stay;
- leaves its full blocks, of which the new ones count as used from the last to the first.

Time is counted in blocks asked for: ``now`` is how many there were before the request, and all
uses by one request are at one time.

Under LRU this hits what the engine does, one request at a time. Blocks that the same requests use
are handled together, which changes no decision.
"""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from harness.analysis.hitrate import HitCounter, HitRate
from harness.errors import HarnessError
from workloads.file import BlockRequest, BlockWorkload


@dataclass(frozen=True, slots=True)
class Request:
    """A request.

    ``needed`` is the room in blocks that it takes, ``blocks`` are those that are full, which are
    ``stretches``, first to last.
    """

    prompt_tokens: int
    needed: int
    blocks: int
    stretches: tuple[int, ...]


class Chains:
    """A workload whose blocks are put together to stretches.

    A stretch is blocks in a row of which every request has all or none. ``sizes`` has the number
    of blocks of each, ``requests`` what asks for them, ``documents`` whether it is doc-QA.

    Args:
        workload: A workload of blocks.

    """

    def __init__(self, workload: BlockWorkload) -> None:
        block_size = workload.header.block_size
        assert block_size is not None, "a workload of blocks without their size"
        self.block_size = block_size
        self.warm_up = workload.header.warm_up
        self.documents = bool(workload.header.document_tokens)
        runs = [run for request in workload.requests for run in request.runs]
        ends = np.array([(first, first + count) for first, count in runs], np.int64).reshape(-1)
        cuts = np.unique(ends)
        self.sizes: list[int] = np.diff(cuts).tolist()
        places = iter(np.searchsorted(cuts, ends).tolist())
        self.requests = [self._request(request, places) for request in workload.requests]

    def _request(self, request: BlockRequest, places: Iterator[int]) -> Request:
        runs = (range(next(places), next(places)) for _ in request.runs)
        return Request(
            request.prompt_tokens,
            math.ceil((request.prompt_tokens + request.output_tokens - 1) / self.block_size),
            request.num_blocks,
            tuple(chain.from_iterable(runs)),
        )


@dataclass(slots=True, eq=False)
class Piece:
    """Cached blocks of one stretch that came in and were used together.

    ``end`` is the depth of its last block in the chain, counted in blocks from 1. ``came`` and
    ``last`` are the times of its first and last use since it came in, of which there were ``uses``;
    ``user`` is the number of the last request that used it. ``score`` is the policy's own.
    """

    stretch: int
    size: int
    end: int
    parent: "Piece | None"
    came: int
    last: int
    user: int
    uses: int = 1
    children: int = 0
    score: float = 0


class PrefixCache:
    """The cache, under LRU. Other policies override what it evicts first.

    ``number`` is that of the running request, ``now`` its time.

    Args:
        chains: What will be replayed.
        cache_blocks: Its size in blocks.

    """

    whole = False
    """Whether a piece goes whole, even if less would do."""

    def __init__(self, chains: Chains, cache_blocks: int) -> None:
        self.number = 0
        self.now = 0
        self._sizes = chains.sizes
        self._size = cache_blocks
        self._blocks = 0  # cached
        self._pieces: dict[int, list[Piece]] = {}  # [stretch], which it begins with
        self._leaves: set[Piece] = set()

    def used(self, piece: Piece) -> None:
        """Note that the running request has used a piece, which is new if ``uses`` is 1.

        All pieces that were found come first, in either case from the last to the first.
        """

    def evicted(self, piece: Piece, blocks: int) -> None:
        """Note that so many blocks at the end of a piece are about to go."""

    def key(self, piece: Piece) -> Any:
        """Return the key of the last block of a piece: the least goes first.

        Of equal ones, the least recently used goes first.
        """
        return piece.last

    def alike(self, piece: Piece) -> int:
        """Return how many blocks at the end of a piece go before another piece has its turn."""
        return piece.size

    def run(self, request: Request) -> int:
        """Run a request and return how many blocks of it were cached.

        Raises:
            HarnessError: if the cache is too small for it.

        """
        if request.needed > self._size:
            raise HarnessError(
                f"request {self.number} needs {request.needed} blocks, but the cache has "
                f"{self._size}: it cannot run; choose a larger cache or shorter requests"
            )
        found = self._find(request)
        hits = found[-1].end if found else 0
        piece = found[-1] if found else None
        while piece is not None:
            # The front of what was split on the way has yet to have its turn, or has had it.
            if piece.user != self.number:
                piece.uses += 1
                piece.last, piece.user = self.now, self.number
                self.used(piece)
            piece = piece.parent
        self._evict(self._blocks - hits + request.needed - self._size)
        for new in reversed(self._insert(request, found)):
            self.used(new)
        self.number += 1
        self.now += request.blocks
        return hits

    def split(self, piece: Piece, blocks: int) -> Piece:
        """Leave so many blocks at its end to a piece; return a new one that has those in front."""
        front = replace(piece, size=piece.size - blocks, end=piece.end - blocks, children=1)
        piece.size, piece.parent = blocks, front
        pieces = self._pieces[piece.stretch]
        pieces.insert(pieces.index(piece), front)
        return front

    def _find(self, request: Request) -> list[Piece]:
        """Return the pieces of the request's prefix that are cached."""
        found: list[Piece] = []
        for stretch in request.stretches:
            pieces = self._pieces.get(stretch, ())
            found += pieces
            if sum(piece.size for piece in pieces) < self._sizes[stretch]:
                break
        return found

    def _evict(self, blocks: int) -> None:
        """Evict so many blocks, or a few more, none of the running request."""
        # What uses a piece uses its parents: no two leaves have one last use.
        heap = [
            (self.key(leaf), leaf.last, leaf) for leaf in self._leaves if leaf.user != self.number
        ]
        heapq.heapify(heap)
        while blocks > 0:
            _, _, piece = heapq.heappop(heap)
            going = piece.size if self.whole else min(blocks, self.alike(piece))
            self.evicted(piece, going)
            blocks -= going
            self._blocks -= going
            piece.size -= going
            piece.end -= going
            leaf = piece if piece.size else self._remove(piece)
            if leaf is not None and leaf.user != self.number:
                heapq.heappush(heap, (self.key(leaf), leaf.last, leaf))

    def _remove(self, piece: Piece) -> Piece | None:
        """Remove a piece without blocks; return the leaf that this leaves, if any."""
        pieces = self._pieces[piece.stretch]
        pieces.pop()
        if not pieces:
            del self._pieces[piece.stretch]
        self._leaves.remove(piece)
        parent = piece.parent
        if parent is None:
            return None
        parent.children -= 1
        if parent.children:
            return None
        self._leaves.add(parent)
        return parent

    def _insert(self, request: Request, found: list[Piece]) -> list[Piece]:
        """Insert what was not found; return the new pieces."""
        new: list[Piece] = []
        parent = found[-1] if found else None
        end = parent.end if parent else 0
        missing = -end
        for stretch in request.stretches:
            missing += self._sizes[stretch]
            if missing <= 0:
                continue
            end += missing
            piece = Piece(stretch, missing, end, parent, self.now, self.now, self.number)
            if parent is not None:
                parent.children += 1
            self._pieces.setdefault(stretch, []).append(piece)
            self._blocks += missing
            new.append(piece)
            parent, missing = piece, 0
        if new:
            if found:
                self._leaves.discard(found[-1])
            self._leaves.add(new[-1])
        return new


def replay(chains: Chains, cache: PrefixCache) -> HitRate:
    """Replay a workload and return its hit rates; what is cached of a request is a prefix.

    Args:
        chains: The workload. Its warm-up is replayed but not counted.
        cache: Made for it, and empty.

    Raises:
        HarnessError: if the cache is too small to run one of the requests.

    """
    counter = HitCounter(chains.block_size)
    for number, request in enumerate(chains.requests):
        hits = cache.run(request)
        if number >= chains.warm_up:
            counter.count(request.prompt_tokens, hits, hits)
    return counter.rate
