"""``summary.json`` of a cell; its keys are those of ``vllm bench serve`` where it has one."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness import disturbance
from harness.cell import CellSpec
from harness.disturbance import Turn
from harness.engines.base import UNREACHABLE, Counters
from harness.load.client import ClientLoad
from harness.measure import validity
from harness.measure.records import RequestRecord, TelemetryRecord


def summarize(
    spec: CellSpec,
    rows: Sequence[RequestRecord],
    fresh: Counters,
    after: Counters,
    client: ClientLoad | None = None,
    turns: Sequence[Turn] = (),
    telemetry: Sequence[TelemetryRecord] = (),
) -> dict[str, Any]:
    """Return totals, percentiles, hit rates and validity of one cell.

    Failed and dropped requests are counted, and are in no mean. TTFT has two forms where requests
    were due at a time: ``..._ttft_ms`` from sending, as ``vllm bench serve`` has it, and
    ``..._ttft_scheduled_ms`` from then.

    Args:
        spec: The cell.
        rows: All its requests.
        fresh: The engine's counters before the first request.
        after: Its counters when the last had finished.
        client: What sending them cost; None in process.
        turns: What disturbed them; none without a clock.
        telemetry: The policy's state, of which the mean share of unreachable blocks is kept.

    """
    counted = [row for row in rows if not row.warm_up]
    ok = [row for row in counted if row.status == "ok"]
    dropped = sum(row.status == "dropped" for row in counted)
    duration = _duration(counted, pauses=spec.load.mode not in ("batch", "batch-http"))
    queried = sum(row.prompt_tokens for row in ok)
    hit = sum(row.cached_tokens or 0 for row in ok)
    looked_up = sum(row.queried_blocks or 0 for row in ok)
    reasons = validity.reasons(spec, rows, fresh, after, client)
    return {
        **spec.summary,
        "warm_up_requests": len(rows) - len(counted),
        "requests": len(counted),
        "completed": len(ok),
        "failed": len(counted) - len(ok) - dropped,
        "dropped": dropped,
        "faults": validity.faults(counted),
        "duration": duration,
        "request_throughput": len(ok) / duration if duration else None,
        "realised_request_rate": _realised_rate(spec, counted),
        "max_concurrent_requests": _most_open(counted),
        "total_input_tokens": queried,
        "total_output_tokens": sum(row.output_tokens or 0 for row in ok),
        "queried_tokens": queried,
        "hit_tokens": hit,
        "hit_rate": hit / queried if queried else None,
        "hit_rate_per_block": (
            sum(row.cached_blocks or 0 for row in ok) / looked_up if looked_up else None
        ),
        **_percentiles("ttft_ms", [row.ttft_ms for row in ok]),
        **_percentiles("ttft_scheduled_ms", [row.ttft_scheduled_ms for row in ok]),
        "ttft_kind": "measured" if any(row.ttft_ms is not None for row in ok) else None,
        **validity.dispatch(counted),
        **(client.summary if client else {}),
        **disturbance.summary(turns),
        UNREACHABLE: _unreachable(telemetry, len(rows) - len(counted)),
        "valid": not reasons,
        "invalid_reason": "; ".join(reasons),
    }


def _unreachable(telemetry: Sequence[TelemetryRecord], warm_up: int) -> float | None:
    """Return the mean share after the warm-up; None where it was never counted."""
    shares = [
        share
        for record in telemetry
        if record.request >= warm_up
        and not math.isnan(share := record.state.get(UNREACHABLE, math.nan))
    ]
    return float(np.mean(shares)) if shares else None


def _percentiles(name: str, values: Sequence[float | None]) -> dict[str, float | None]:
    found = [value for value in values if value is not None]
    keys = {"median": 50, "p90": 90, "p99": 99, "p99.9": 99.9}
    return {
        f"mean_{name}": float(np.mean(found)) if found else None,
        **{
            f"{key}_{name}": float(np.percentile(found, percent)) if found else None
            for key, percent in keys.items()
        },
    }


def _duration(rows: Sequence[RequestRecord], pauses: bool) -> float | None:
    """Return the seconds from the first request sent to the last one's end.

    Between batches other cells may have their turn: without pauses, only the time counts with
    requests under way.
    """
    spans = sorted(
        (row.sent_ns, row.end_ns)
        for row in rows
        if row.sent_ns is not None and row.end_ns is not None
    )
    if not spans:
        return None
    until = spans[0][0]
    paused = 0
    for sent, end in spans:
        paused += max(0, sent - until)
        until = max(until, end)
    return (until - spans[0][0] - (0 if pauses else paused)) / 1e9


def _realised_rate(spec: CellSpec, rows: Sequence[RequestRecord]) -> float | None:
    """Return how many requests an open loop sent a second, from its first to its last.

    To be held against ``request_rate``: there are as many times between requests as requests but
    one. None for other modes, which have no rate of their own.
    """
    sent = [row.sent_ns for row in rows if row.sent_ns is not None]
    if spec.load.mode != "open-loop" or len(set(sent)) < 2:
        return None
    return (len(sent) - 1) * 1e9 / (max(sent) - min(sent))


def _most_open(rows: Sequence[RequestRecord]) -> int | None:
    """Return how many requests were open at a time, at most."""
    changes = sorted(
        change
        for row in rows
        if row.sent_ns is not None and row.end_ns is not None
        # At the same time, the end first.
        for change in ((row.sent_ns, 1), (row.end_ns, -1))
    )
    most = now = 0
    for _, step in changes:
        now += step
        most = max(most, now)
    return most or None
