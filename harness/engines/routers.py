"""Which engine of a fleet gets a request: the rules of routers, by what their projects say of them.

A router here sees what those see, the requests that came before and how many of a batch each engine
has been given, and nothing of what engines hold or evict. No time passes, so that between batches
all engines are idle, and no router's load rule has anything to say of batches of one.
"""

import hashlib
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from workloads.file import BlockRequest


class Router(Protocol):
    """A router in front of some engines."""

    def choose(self, request: BlockRequest, given: Sequence[int]) -> int:
        """Return the engine that gets a request.

        Args:
            request: The next one.
            given: How many of its batch each engine has got.

        """
        ...


class RoundRobin:
    """Each engine in turn.

    ``roundrobin`` of vLLM's production stack, ``round_robin`` of SGLang's Model Gateway.
    """

    def __init__(self, engines: int, cache_blocks: int, seed: int) -> None:
        self._engines, self._next = engines, 0

    def choose(self, request: BlockRequest, given: Sequence[int]) -> int:
        """Return the one after the last."""
        chosen = self._next
        self._next = (chosen + 1) % self._engines
        return chosen


class Session:
    """All turns of a session at one engine: ``session`` of vLLM's production stack.

    By a hash of the session. A request of none goes where the fewest went (there: of late).
    """

    def __init__(self, engines: int, cache_blocks: int, seed: int) -> None:
        self._counts = [0] * engines

    def choose(self, request: BlockRequest, given: Sequence[int]) -> int:
        """Return the session's engine."""
        if request.session is None:
            chosen = self._counts.index(min(self._counts))
        else:
            digest = hashlib.sha256(str(request.session).encode()).digest()
            chosen = int.from_bytes(digest[:8]) % len(self._counts)
        self._counts[chosen] += 1
        return chosen


class PrefixAware:
    """Where the longest prefix of the prompt went: ``prefixaware`` of vLLM's production stack.

    It forgets nothing, and chooses among equals by chance.
    """

    def __init__(self, engines: int, cache_blocks: int, seed: int) -> None:
        self._sent: list[set[int]] = [set() for _ in range(engines)]
        self._random = random.Random(f"{seed}/prefix-aware")

    def choose(self, request: BlockRequest, given: Sequence[int]) -> int:
        """Return one of those with the longest match."""
        matches = [_matched(request, sent) for sent in self._sent]
        chosen = self._random.choice(_largest(matches))
        self._sent[chosen].update(request.blocks())
        return chosen


class CacheAware:
    """The same, unless too little of the prompt matches: ``cache_aware`` of SGLang's Model Gateway
    and of vLLM's router.

    Where no more than ``cache-threshold`` of it went anywhere, it goes where the fewest different
    blocks went. Once the busiest engine has ``balance-abs-threshold`` requests more than the idlest
    and ``balance-rel-threshold`` times as many, the idlest gets it. The thresholds are their
    defaults.
    """

    _CACHE, _ABSOLUTE, _RELATIVE = 0.3, 64, 1.5

    def __init__(self, engines: int, cache_blocks: int, seed: int) -> None:
        self._sent: list[set[int]] = [set() for _ in range(engines)]

    def choose(self, request: BlockRequest, given: Sequence[int]) -> int:
        """Return the one with the longest match, that with the smallest record, or the idlest."""
        least, most = min(given), max(given)
        matches = [_matched(request, sent) for sent in self._sent]
        if most - least > self._ABSOLUTE and most > self._RELATIVE * least:
            chosen = given.index(least)
        elif max(matches) > self._CACHE * request.num_blocks:
            chosen = matches.index(max(matches))
        else:
            sizes = [len(sent) for sent in self._sent]
            chosen = sizes.index(min(sizes))
        self._sent[chosen].update(request.blocks())
        return chosen


class Scored:
    """The highest sum of scores: the router of llm-d, with its default profile.

    Three times the share of the prompt's blocks that an engine is taken to hold, from a record of
    as many blocks as its cache has, the least recently sent forgotten first; twice how short its
    queue is among all. (Twice its free cache, too, which is all of it while it is idle.) By chance
    among equals.
    """

    _PREFIX, _QUEUE = 3.0, 2.0

    def __init__(self, engines: int, cache_blocks: int, seed: int) -> None:
        self._capacity = cache_blocks
        self._held: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(engines)]
        self._random = random.Random(f"{seed}/scored")

    def choose(self, request: BlockRequest, given: Sequence[int]) -> int:
        """Return one of those with the highest score."""
        least, spread = min(given), max(given) - min(given)
        total = max(1, request.num_blocks)
        scores = [
            self._PREFIX * _matched(request, held) / total
            + self._QUEUE * (1 - (queue - least) / spread if spread else 1)
            for held, queue in zip(self._held, given, strict=True)
        ]
        chosen = self._random.choice(_largest(scores))
        held = self._held[chosen]
        # A prefix outlives what follows it.
        for block in reversed(list(request.blocks())):
            held[block] = None
            held.move_to_end(block)
        while len(held) > self._capacity:
            held.popitem(last=False)
        return chosen


ROUTERS: Mapping[str, Callable[[int, int, int], Router]] = {
    "round-robin": RoundRobin,
    "session": Session,
    "prefix-aware": PrefixAware,
    "cache-aware": CacheAware,
    "scored": Scored,
}
"""By the name that configs have, from engines, blocks of each one's cache, and a seed."""


def _matched(request: BlockRequest, sent: "set[int] | OrderedDict[int, None]") -> int:
    """Return how many of a prompt's blocks, from the first on, were sent."""
    for count, block in enumerate(request.blocks()):
        if block not in sent:
            return count
    return request.num_blocks


def _largest(values: Sequence[float]) -> list[int]:
    """Return the places of the largest value."""
    largest = max(values)
    return [place for place, value in enumerate(values) if value == largest]
