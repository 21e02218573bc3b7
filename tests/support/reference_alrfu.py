"""ALRFU block by block, for reading, not for speed: each block has scores of its own."""

from math import exp2, log2, sqrt

from vllm.v1.core.eviction.alrfu import HALF_LIVES, LONG_WINDOW, MAX_DEFICIT, SHORT_WINDOW


class ReferenceALRFU:
    """One request at a time, of whole blocks, which forgets nothing.

    A block is its content and all before it, so that a request is a chain of names.
    """

    def __init__(self, capacity: int) -> None:
        self.c = capacity
        self.time = 0
        self.scores: dict[str, list[float]] = {}
        self.depth: dict[str, int] = {}
        self.cached: set[str] = set()
        self.shadows: list[set[str]] = [set() for _ in HALF_LIVES]
        self.followed = 0
        self.leads = {window: [0.0] * len(HALF_LIVES) for window in (LONG_WINDOW, SHORT_WINDOW)}
        self.squares = {window: [0.0] * len(HALF_LIVES) for window in self.leads}
        self.compared = 0

    def request(self, chain: list[str]) -> int:
        """Return how many blocks hit, and make all of them resident."""
        hits = _prefix(chain, self.cached)
        self.time += len(chain)
        once = [self.time / self.c / (half_life or 1.0) for half_life in HALF_LIVES]
        before: list[float] | None = None
        for depth, block in enumerate(chain):
            scores = once
            if block in self.scores:
                scores = [once[0], *map(_add, self.scores[block][1:], once[1:])]
            before = list(map(min, scores, before)) if before else scores
            self.scores[block] = before
            self.depth[block] = depth
        found = []
        for i, shadow in enumerate(self.shadows):
            found.append(_prefix(chain, shadow))
            shadow.update(chain)
            self._evict(shadow, i, chain)
        self._adapt(found)
        self.cached.update(chain)
        self._evict(self.cached, self.followed, chain)
        return hits

    def _evict(self, cache: set[str], half_life: int, in_use: list[str]) -> None:
        def worth(block: str) -> tuple[float, int]:
            return self.scores[block][half_life], -self.depth[block]

        while len(cache) > self.c:
            cache.remove(min(cache - set(in_use), key=worth))

    def _adapt(self, found: list[int]) -> None:
        more = [hits - found[0] for hits in found]
        if not any(more):
            return
        elapsed = (self.time - self.compared) / self.c
        self.compared = self.time
        for window, leads in self.leads.items():
            decay = exp2(-elapsed / window)
            for i in range(len(leads)):
                self.squares[window][i] = self.squares[window][i] * decay * decay + more[i] ** 2
                most = MAX_DEFICIT * sqrt(self.squares[window][i])
                leads[i] = max(leads[i] * decay + more[i], -most)
        better = [
            i
            for i in range(len(HALF_LIVES))
            if self.leads[LONG_WINDOW][i] > sqrt(self.squares[LONG_WINDOW][i])
            and self.leads[SHORT_WINDOW][i] > -sqrt(self.squares[SHORT_WINDOW][i])
        ]
        self.followed = max(better, key=lambda i: self.leads[LONG_WINDOW][i], default=0)


def _prefix(chain: list[str], cache: set[str]) -> int:
    return next((i for i, block in enumerate(chain) if block not in cache), len(chain))


def _add(score: float, other: float) -> float:
    return max(score, other) + log2(1 + exp2(-abs(score - other)))
