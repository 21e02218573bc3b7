"""Several engines in process behind a router, as if they were one."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from harness.cell import CellSpec
from harness.cell import Fleet as Load
from harness.engines.base import UNREACHABLE, Completion, Counters, Engine
from harness.engines.routers import ROUTERS
from workloads.file import BlockRequest


class Fleet:
    """Engines that each have the cell's policy and a cache of its size; see ``base.Engine``.

    Args:
        spec: The cell.
        start: Starts one of them.

    """

    def __init__(self, spec: CellSpec, start: Callable[[], Engine[BlockRequest]]) -> None:
        assert isinstance(spec.load, Load)
        self._engines = [start() for _ in range(spec.load.engines)]
        self._router = ROUTERS[spec.load.router](spec.load.engines, spec.cache_blocks, spec.seed)
        self._counts = [0] * spec.load.engines
        self.version = self._engines[0].version
        self.imported_from = self._engines[0].imported_from

    def warm_up(self) -> None:
        """Warm up each."""
        for engine in self._engines:
            engine.warm_up()

    def generate(self, requests: Sequence[BlockRequest]) -> list[Completion]:
        """Share the requests out, and run each engine's as one batch."""
        shares: list[list[int]] = [[] for _ in self._engines]
        for place, request in enumerate(requests):
            shares[self._router.choose(request, list(map(len, shares)))].append(place)
        found: dict[int, Completion] = {}
        for number, (engine, share) in enumerate(zip(self._engines, shares, strict=True)):
            self._counts[number] += len(share)
            if share:
                completions = engine.generate([requests[place] for place in share])
                found |= zip(share, completions, strict=True)
        return [found[place] for place in range(len(requests))]

    def counters(self) -> Counters:
        """Return the sum of the engines' counters."""
        each = [engine.counters() for engine in self._engines]
        return Counters(
            sum(one.queried_tokens for one in each), sum(one.hit_tokens for one in each)
        )

    def policy_state(self) -> Mapping[str, float]:
        """Return the sum of the policies' states, and which share of requests went to the busiest
        engine.
        """
        total: Counter[str] = Counter()
        for engine in self._engines:
            total.update(engine.policy_state() or {})
        # A share, of which each engine has its own.
        total.pop(UNREACHABLE, None)
        return {**total, "busiest": max(self._counts) / max(1, sum(self._counts))}

    def metrics_text(self) -> None:
        """Return nothing: there is no server to ask."""
