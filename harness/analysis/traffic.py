"""What one traffic is like, whatever cache serves it: its size, and how it comes back to blocks."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import HarnessError
from workloads.file import BlockRequest, BlockWorkload

# Points that a curve is kept as.
_POINTS = 200
# Requests over which skew is measured: what is asked for often changes with time.
WINDOW = 512

_Integers = npt.NDArray[np.int64]


class Traffic(BaseModel):
    """One workload of blocks.

    A *look-up* is one request's for one of its full blocks. ``seen_before`` is the share of
    look-ups of blocks that an earlier request had. ``longest_tokens`` is what the request needs
    that needs the most KV cache, and ``working_set_tokens`` the least cache that never evicts.
    ``sessions`` and ``span_s`` are None where the requests say nothing of them.

    ``top_tenth`` is how skewed use is: the share of look-ups that the most used tenth of the blocks
    gets, of those asked for in a window of ``WINDOW`` consecutive requests, the mean over windows.
    A session is *live* from its first request until its last: it will come again.
    ``live_sessions`` is how many are, ``live_tokens`` what their latest prompts' full blocks hold
    together; both are means over the requests after the warm-up, and None without sessions.

    Three curves: ``distances``, of (tokens, share of look-ups whose block came last no more
    than so many other distinct tokens ago); ``uses``, of (share of the distinct blocks, the most
    used first, their share of look-ups); ``turns``, of (requests, sessions with so many).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    block_size: int
    requests: int
    prompt_tokens: int
    sessions: int | None
    span_s: float | None
    lookups: int
    distinct_blocks: int
    seen_before: float
    used_once: float
    top_tenth: float
    live_sessions: float | None
    live_tokens: float | None
    longest_tokens: int
    working_set_tokens: int
    distances: list[tuple[float, float]]
    uses: list[tuple[float, float]]
    turns: list[tuple[int, int]]

    @property
    def sentence(self) -> str:
        """What there is, in a line."""
        sessions = ""
        if self.sessions is not None:
            sessions = f" in {self.sessions:,} session{'s' if self.sessions > 1 else ''}"
        span = "" if self.span_s is None else f" over {_duration(self.span_s)}"
        return (
            f"{self.requests:,} request{'s' if self.requests > 1 else ''}{sessions}{span}, "
            f"{self.prompt_tokens:,} prompt tokens "
            f"({self.prompt_tokens / self.requests:,.0f} a request), of whose full blocks "
            f"{100 * self.seen_before:.1f} % were seen before"
        )


def measure(workload: BlockWorkload) -> Traffic:
    """Describe a workload, its warm-up included.

    Raises:
        HarnessError: if it has no requests, or none with a full block.

    """
    header, requests = workload.header, workload.requests
    size = header.block_size
    assert size is not None
    lookups = sum(request.num_blocks for request in requests)
    if not lookups:
        raise HarnessError(
            f"{header.name}: none of its requests ({len(requests)}) has a full block of {size} "
            "tokens, and a cache keeps no others: take a log of longer prompts"
        )
    ids = max(sum(run) for request in requests for run in request.runs)
    uses: _Integers = np.zeros(ids, np.int64)
    last: _Integers = np.full(ids, -1, np.int64)
    # Blocks by the request that had them last: those after a request are what came since.
    newest = _Sums(len(requests))
    since: Counter[int] = Counter()
    for number, request in enumerate(requests):
        runs = [slice(first, first + count) for first, count in request.runs]
        before = np.concatenate([last[:0], *(last[run] for run in runs)])
        found, counts = np.unique(before[before >= 0], return_counts=True)
        for earlier, count in zip(found.tolist(), counts.tolist(), strict=True):
            since[newest.after(earlier)] += count
        for earlier, count in zip(found.tolist(), counts.tolist(), strict=True):
            newest.add(earlier, -count)
        for run in runs:
            last[run] = number
            uses[run] += 1
        newest.add(number, len(before))
    used = np.sort(uses[uses > 0])[::-1]
    needed = [-(-(request.prompt_tokens + request.output_tokens) // size) for request in requests]
    beyond = max(n - request.num_blocks for n, request in zip(needed, requests, strict=True))
    sessions = Counter(request.session for request in requests)
    live = None if None in sessions else _live(requests, header.warm_up)
    times = [request.arrival_ms for request in requests if request.arrival_ms is not None]
    return Traffic(
        name=header.name,
        block_size=size,
        requests=len(requests),
        prompt_tokens=sum(request.prompt_tokens for request in requests),
        sessions=None if None in sessions else len(sessions),
        span_s=(max(times) - min(times)) / 1000 if len(times) == len(requests) else None,
        lookups=lookups,
        distinct_blocks=len(used),
        seen_before=sum(since.values()) / lookups,
        used_once=float((used == 1).mean()),
        top_tenth=_top_tenth(requests, ids),
        live_sessions=live and live[0],
        live_tokens=live and live[1] * size,
        longest_tokens=max(needed) * size,
        working_set_tokens=max(len(used) + beyond, max(needed)) * size,
        distances=_cumulative(since, size, lookups),
        uses=_thinned(
            np.arange(1, len(used) + 1) / len(used), np.cumsum(used, dtype=np.float64) / lookups
        ),
        turns=[] if None in sessions else sorted(Counter(sessions.values()).items()),
    )


def _top_tenth(requests: Sequence[BlockRequest], ids: int) -> float:
    """Return the share of look-ups of the most used tenth of blocks, the mean over windows."""
    shares = []
    # What is left at the end may be too little to tell anything.
    for first in range(0, max(1, len(requests) - WINDOW + 1), WINDOW):
        uses: _Integers = np.zeros(ids, np.int64)
        for request in requests[first : first + WINDOW]:
            for start, count in request.runs:
                uses[start : start + count] += 1
        used = np.sort(uses[uses > 0])[::-1]
        if len(used):
            shares.append(_first_tenth(used))
    return float(np.mean(shares))


def _first_tenth(used: _Integers) -> float:
    tenth = len(used) / 10
    before = np.concatenate([[0], np.cumsum(used)])
    return float(np.interp(tenth, np.arange(len(before)), before) / before[-1])


def _live(requests: Sequence[BlockRequest], warm_up: int) -> tuple[float, float]:
    """Return how many sessions are live, and their latest prompts' blocks: means over requests."""
    last = {request.session: number for number, request in enumerate(requests)}
    holds: dict[int | None, int] = {}
    held = sessions = blocks = 0
    for number, request in enumerate(requests):
        held -= holds.pop(request.session, 0)
        if last[request.session] > number:
            holds[request.session] = request.num_blocks
            held += request.num_blocks
        if number >= warm_up:
            sessions += len(holds)
            blocks += held
    counted = len(requests) - warm_up
    return sessions / counted, blocks / counted


def cache_sizes(traffic: Traffic, limit: int, count: int = 5) -> list[int]:
    """Return cache sizes that tell policies apart, in tokens, all whole blocks.

    They go from what the largest request needs to the whole working set, but to no more than a
    limit, in equal ratios; fewer than ``count`` where these are close to each other.
    """
    least = traffic.longest_tokens
    most = max(
        least, min(traffic.working_set_tokens, limit // traffic.block_size * traffic.block_size)
    )
    blocks = np.geomspace(least, most, count) / traffic.block_size
    rounded = [_two_digits(value) for value in blocks[1:-1]]
    inner = [value * traffic.block_size for value in rounded]
    return sorted({least, most, *(size for size in inner if least < size < most)})


def write(traffic: Traffic, path: Path) -> None:
    """Write a description as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(traffic.model_dump_json(indent=2) + "\n")
    os.replace(partial, path)


def read(path: Path) -> Traffic:
    """Read what ``write`` wrote.

    Raises:
        HarnessError: if it is missing or damaged.

    """
    try:
        return Traffic.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise HarnessError(
            f"{path}: no description of traffic: {error}; remove it and run the same command again"
        ) from None


class _Sums:
    """Numbers at places, and sums after them (Fenwick, Software: Pract. Exper. 24, 1994)."""

    def __init__(self, places: int) -> None:
        self._tree = [0] * (places + 1)
        self._total = 0

    def add(self, place: int, value: int) -> None:
        self._total += value
        place += 1
        while place < len(self._tree):
            self._tree[place] += value
            place += place & -place

    def after(self, place: int) -> int:
        total, place = self._total, place + 1
        while place:
            total -= self._tree[place]
            place -= place & -place
        return total


def _cumulative(since: Counter[int], size: int, lookups: int) -> list[tuple[float, float]]:
    if not since:
        return []
    distances = np.array(sorted(since))
    shares = np.cumsum([since[distance] for distance in distances.tolist()]) / lookups
    return _thinned(distances * float(size), shares)


def _thinned(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return a rising curve as few points, of which none is left out that rises by much."""
    levels = np.linspace(y[0], y[-1], _POINTS)
    kept = np.unique(np.concatenate([[0], np.searchsorted(y, levels), [len(y) - 1]]))
    kept = kept[kept < len(y)]
    return [(float(x[i]), float(y[i])) for i in kept]


def _two_digits(value: float) -> int:
    return int(float(f"{value:.2g}"))


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.0f} s"
