"""Blocks of vLLM's KV cache, seen from outside."""

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from workloads.file import Run

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
        found = self._look_up(request, *limits)
        # The last look-up before its first blocks: later ones find the request's own.
        if not request.num_preemptions:
            hashes = request.block_hashes
            # The prefix that was found need not be looked for again. How far a look-up may reach,
            # which some versions say, does not change what is there.
            prefix = len(found[0].blocks[0])
            # Past the pool's own look-up, which would take a good part of a replayed request.
            # Asked for each time: a reset of the cache replaces it.
            cache = self._pool.cached_block_hash_to_block._cache
            keys = map(operator.add, hashes[prefix:], itertools.repeat(_GROUP))
            cached = prefix + sum(map(cache.__contains__, keys))
            self._found[request.request_id] = (len(hashes), cached)
        return found


# Of an id: nothing is before it.
_NOTHING = -1


class Prefixes:
    """Which block comes before which, as the prompts so far have it.

    Ids of consecutive blocks follow each other but where a prompt's run began elsewhere, so that a
    prompt costs as much as it has new runs.
    """

    def __init__(self) -> None:
        # First id of a run -> the id before it.
        self._before: dict[int, int] = {}

    def add(self, runs: Sequence[Run]) -> None:
        """Learn of a prompt, as runs of (first id, number of consecutive ids)."""
        for place in range(len(runs) - 1, -1, -1):
            first = runs[place][0]
            # An id names all before it, so those are known, too.
            if first in self._before:
                return
            self._before[first] = sum(runs[place - 1]) - 1 if place else _NOTHING

    def unreachable(self, ids: npt.NDArray[np.int64]) -> int:
        """Return of how many of some blocks not all blocks before them are among these, too.

        Args:
            ids: Of blocks of the prompts, each once.

        """
        if not len(ids):
            return 0
        ids = np.sort(ids)
        before = ids - 1
        firsts, lasts = (
            np.fromiter(values, np.int64, len(self._before))
            for values in (self._before.keys(), self._before.values())
        )
        place, is_there = _find(ids, firsts)
        before[place[is_there]] = lasts[is_there]
        # Parts of chains without a gap, of which all can be reached or none.
        begins = np.ones(len(ids), bool)
        begins[1:] = before[1:] != ids[:-1]
        part = np.cumsum(begins) - 1
        place, is_there = _find(ids, before[begins])
        reached = before[begins] == _NOTHING
        while True:
            further = reached | (is_there & reached[part[place]])
            if (further == reached).all():
                return int(np.bincount(part)[~reached].sum())
            reached = further


def _find(
    ids: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Return where in sorted ids each of some others is, and whether it is there at all."""
    place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return place, ids[place] == wanted
