"""Blocks of vLLM's KV cache, seen from outside."""

import itertools
import operator
from typing import Any

# vLLM keeps one block to itself as a placeholder.
RESERVED_BLOCKS = 1
# On the CPU, vLLM wants most of the memory free before it starts unless told how much it may have.
# The number of blocks decides how much it takes.
CPU_KV_CACHE_BYTES = 1 << 30
# What vLLM appends to the hashes of the first and, here, only KV cache group.
_GROUP = (0).to_bytes(4, "big")


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
            keys = map(operator.add, hashes, itertools.repeat(_GROUP))
            cached = sum(map(cache.__contains__, keys))
            self._found[request.request_id] = (len(hashes), cached)
        return self._look_up(request, *limits)
