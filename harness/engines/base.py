"""What a load driver needs of an engine."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from workloads.file import Request

# vLLM keeps one block to itself as a placeholder.
RESERVED_BLOCKS = 1
# Requests are split as little as that allows: TTFT is then one forward pass.
_MIN_BATCHED_TOKENS = 8192
# On the CPU, vLLM wants most of the memory free before it starts unless told how much it may have.
# The number of blocks decides how much it takes.
CPU_KV_CACHE_BYTES = 1 << 30
_WARM_UP_REQUESTS = 3


def max_batched_tokens(max_model_len: int) -> int:
    """Return how many tokens an engine may compute in one step; the same in every tier."""
    return max(_MIN_BATCHED_TOKENS, max_model_len)


# What vLLM appends to the hashes of the first and, here, only KV cache group.
_GROUP = (0).to_bytes(4, "big")

R = TypeVar("R", bound=Request, contravariant=True)


@dataclass(frozen=True)
class Completion:
    """What became of a request. Times in ns on the monotonic clock; None: there are none.

    ``cached_tokens`` is the contiguous prefix found in the cache. ``cached_blocks`` of
    ``queried_blocks`` full blocks were in the cache, whether or not the blocks before them were.
    """

    arrived_ns: int | None
    first_token_ns: int | None
    end_ns: int | None
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    queried_blocks: int
    cached_blocks: int


@dataclass(frozen=True)
class Counters:
    """The engine's own count of prompt tokens looked up in its prefix cache, since it started.

    ``created`` is when a server began to count, in s since 1970; another value is another server.
    """

    queried_tokens: int
    hit_tokens: int
    created: float | None = None


class Engine(Protocol[R]):
    """An engine that runs, with the prompts of one workload at hand; it ends with its process."""

    version: str
    imported_from: str

    def warm_up(self) -> None:
        """Run what shares nothing with the workload, so that the first request costs no more."""
        ...

    def generate(self, requests: Sequence[R]) -> list[Completion]:
        """Run the requests as one batch and return when all have finished, in their order."""
        ...

    def counters(self) -> Counters:
        """Return the engine's prefix-cache counters."""
        ...

    def policy_state(self) -> Mapping[str, float] | None:
        """Return the eviction policy's state; None for vLLM's own, which keeps none."""
        ...

    def metrics_text(self) -> str | None:
        """Return the engine's metrics in Prometheus' text format; None if it keeps none."""
        ...


def warm_up_prompts(lengths: Sequence[int], vocabulary: int, seed: int) -> list[list[int]]:
    """Return prompts of the shortest, the median and the longest length, of random tokens."""
    rng = random.Random(f"{seed}/warm-up")
    ordered = sorted(lengths)
    places = ((len(ordered) - 1) * i // (_WARM_UP_REQUESTS - 1) for i in range(_WARM_UP_REQUESTS))
    return [rng.choices(range(vocabulary), k=ordered[place]) for place in places]


class BlockHits:
    """Counts, at each look-up, the prompt's blocks that are cached, prefix or not.

    Every engine gets the same wrapper, so it costs each of them the same.

    Args:
        cache_manager: The engine's ``KVCacheManager``, whose look-up is wrapped.

    """

    def __init__(self, cache_manager: Any) -> None:
        self._found: dict[str, tuple[int, int]] = {}
        self._pool = cache_manager.block_pool
        self._look_up = cache_manager.get_computed_blocks
        cache_manager.get_computed_blocks = self._counting

    def of(self, request_id: str) -> tuple[int, int]:
        """Return how many full blocks a request's prompt has and how many of them were cached."""
        if request_id in self._found:
            return self._found[request_id]
        # The engine reports an id without the suffix that it appended.
        return next(
            hits for found, hits in self._found.items() if found.startswith(f"{request_id}-")
        )

    def clear(self) -> None:
        """Forget what was counted."""
        self._found.clear()

    def _counting(self, request: Any, *limits: Any) -> Any:
        # How far a look-up may reach, which some versions say, does not change what is there.
        # The last look-up before its first blocks: later ones find the request's own.
        if not request.num_preemptions:
            hashes = request.block_hashes
            # Past the pool's own look-up, which would take a good part of a replayed request.
            # Asked for each time: a reset of the cache replaces it.
            cache = self._pool.cached_block_hash_to_block._cache
            cached = sum(block_hash + _GROUP in cache for block_hash in hashes)
            self._found[request.request_id] = (len(hashes), cached)
        return self._look_up(request, *limits)
