"""When a cell's numbers cannot be trusted: the limits, and whether they were kept.

A cell that broke one is kept, says so, and is never drawn as valid.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.cell import CellSpec
from harness.engines.base import Counters
from harness.load.client import ClientLoad
from harness.measure.records import RequestRecord

# A request sent so long after it was due is late, and with more than one in a hundred of these the
# load was not what the cell says.
MAX_DISPATCH_P99_MS = 20.0
# A client that is busier than this, in cores a process, may see a token only some time after it
# arrived.
MAX_CLIENT_CORES = 0.8
# Of a request that failed nobody knows what it found in the cache.
MAX_ERROR_RATE = 0.0


def reasons(
    spec: CellSpec,
    rows: Sequence[RequestRecord],
    fresh: Counters,
    after: Counters,
    client: ClientLoad | None,
) -> list[str]:
    """Return why a cell's numbers cannot be trusted; nothing if they can.

    Args:
        spec: The cell.
        rows: All its requests, those that warm up included.
        fresh: The engine's counters before the first request.
        after: Its counters when the last had finished.
        client: What sending them cost; None in process.

    """
    found = []
    if failed := sum(faults(rows).values()):
        named = ", ".join(f"{name} {count}" for name, count in faults(rows).items())
        if failed > MAX_ERROR_RATE * len(rows):
            found.append(f"{failed} of {len(rows)} requests failed ({named})")
    if fresh.hit_tokens:
        found.append(f"the cache had {fresh.hit_tokens} hit tokens before the first request")
    if fresh.created != after.created or after.queried_tokens < fresh.queried_tokens:
        found.append("the engine was restarted: it counts anew")
    else:
        found += _disagreements(rows, fresh, after)
    late = dispatch(rows).get("p99_dispatch_delay_ms") or 0.0
    if spec.load.mode == "open-loop" and late > MAX_DISPATCH_P99_MS:
        found.append(
            f"late dispatch: p99 {late:.1f} ms after the scheduled time, "
            f"more than {MAX_DISPATCH_P99_MS:g}"
        )
    if client and client.cores > MAX_CLIENT_CORES:
        found.append(
            f"the client took {client.cores:.2f} of a core, more than {MAX_CLIENT_CORES:g}"
        )
    return found


def faults(rows: Sequence[RequestRecord]) -> dict[str, int]:
    """Return how many requests had each fault, by its name."""
    return dict(sorted(Counter(row.status for row in rows if row.status != "ok").items()))


def dispatch(rows: Sequence[RequestRecord]) -> dict[str, Any]:
    """Return how long after they were due requests were sent; nothing without a schedule."""
    delays = [
        (row.sent_ns - row.scheduled_ns) / 1e6
        for row in rows
        if row.sent_ns is not None and row.scheduled_ns is not None
    ]
    if not delays:
        return {}
    return {
        "median_dispatch_delay_ms": float(np.median(delays)),
        "p99_dispatch_delay_ms": float(np.percentile(delays, 99)),
        "late_requests": sum(delay > MAX_DISPATCH_P99_MS for delay in delays),
    }


def _disagreements(rows: Sequence[RequestRecord], fresh: Counters, after: Counters) -> list[str]:
    """Compare the requests' own counts with the engine's; they are equal or something is wrong."""
    ok = [row for row in rows if row.status == "ok"]
    pairs = (
        ("cached", sum(r.cached_tokens or 0 for r in ok), after.hit_tokens - fresh.hit_tokens),
        ("queried", sum(r.prompt_tokens for r in ok), after.queried_tokens - fresh.queried_tokens),
    )
    return [
        f"requests sum up to {ours} {name} tokens, the engine counts {engines}"
        for name, ours, engines in pairs
        if ours != engines
    ]
