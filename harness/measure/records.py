"""Records of requests and policy state, the summary made of them, and the verdict on both.

``requests.parquet`` has one row a request, ``telemetry.parquet`` one row a batch. Key names in
``summary.json`` are those of ``vllm bench serve`` where it has one.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.cell import REQUESTS, SUMMARY, TELEMETRY, CellSpec
from harness.engines.base import Counters


@dataclass(frozen=True)
class RequestRecord:
    """What became of one request: the columns of ``requests.parquet``.

    Times in ns on the monotonic clock; None: does not apply. ``warm_up`` requests only fill the
    cache and count in no total.
    """

    request: int
    session: int | None
    turn: int | None
    window: int | None
    warm_up: bool
    scheduled_ns: int | None
    sent_ns: int | None
    first_byte_ns: int | None
    first_token_ns: int | None
    end_ns: int | None
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    queried_blocks: int
    cached_blocks: int
    status: Literal["ok", "error"]
    error: str | None

    @property
    def ttft_ms(self) -> float | None:
        """Time from sending to the first token."""
        if self.first_token_ns is None or self.sent_ns is None:
            return None
        return (self.first_token_ns - self.sent_ns) / 1e6


@dataclass(frozen=True)
class TelemetryRecord:
    """The policy's state after the given request, under the policy's own names.

    Of ARC: the sizes of T1, T2, B1, B2 and ``p``, the size meant for T1, all in blocks. Of all:
    ``evictions`` since the engine started.
    """

    request: int
    state: Mapping[str, float]


def _integers(names: str, suffix: str = "") -> "list[pa.Field[pa.DataType]]":
    return [pa.field(f"{name}{suffix}", pa.int64()) for name in names.split()]


_REQUEST_SCHEMA = pa.schema(
    [
        *_integers("request session turn window"),
        pa.field("warm_up", pa.bool_()),
        *_integers("scheduled sent first_byte first_token end", "_ns"),
        *_integers("prompt cached output", "_tokens"),
        *_integers("queried cached", "_blocks"),
        pa.field("status", pa.string()),
        pa.field("error", pa.string()),
    ]
)


def write_requests(folder: Path, rows: Sequence[RequestRecord]) -> None:
    """Write ``requests.parquet``."""
    table = pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=_REQUEST_SCHEMA)
    pq.write_table(table, folder / REQUESTS)


def write_telemetry(folder: Path, rows: Sequence[TelemetryRecord]) -> None:
    """Write ``telemetry.parquet``: ``request`` and one column for each name of the state."""
    columns = {"request": [row.request for row in rows]} | {
        name: [row.state[name] for row in rows] for name in (rows[0].state if rows else ())
    }
    pq.write_table(pa.table(columns), folder / TELEMETRY)


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write ``summary.json``."""
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")


def summarize(
    spec: CellSpec,
    rows: Sequence[RequestRecord],
    duration: float,
    fresh: Counters,
    before: Counters,
    after: Counters,
) -> dict[str, Any]:
    """Return totals, percentiles, hit rates and validity of one cell.

    Args:
        spec: The cell.
        rows: All its requests.
        duration: Seconds from the first request after the warm-up to the last.
        fresh: The engine's counters before the first request.
        before: Its counters after the requests that only warm up.
        after: Its counters when the last had finished.

    """
    counted = [row for row in rows if not row.warm_up]
    ok = [row for row in counted if row.status == "ok"]
    ttfts = [row.ttft_ms for row in ok if row.ttft_ms is not None]
    queried = after.queried_tokens - before.queried_tokens
    hit = after.hit_tokens - before.hit_tokens
    looked_up = sum(row.queried_blocks for row in ok)
    reasons = invalid_reasons(counted, fresh, before, after)
    summary: dict[str, Any] = {
        **spec.summary,
        "warm_up_requests": len(rows) - len(counted),
        "requests": len(counted),
        "completed": len(ok),
        "failed": len(counted) - len(ok),
        "duration": duration,
        "total_input_tokens": sum(row.prompt_tokens for row in ok),
        "total_output_tokens": sum(row.output_tokens for row in ok),
        "queried_tokens": queried,
        "hit_tokens": hit,
        "hit_rate": hit / queried if queried else None,
        "hit_rate_per_block": (
            sum(row.cached_blocks for row in ok) / looked_up if looked_up else None
        ),
        "mean_ttft_ms": float(np.mean(ttfts)) if ttfts else None,
        **{
            key: float(np.percentile(ttfts, percent)) if ttfts else None
            for key, percent in (
                ("median_ttft_ms", 50),
                ("p90_ttft_ms", 90),
                ("p99_ttft_ms", 99),
            )
        },
        "ttft_kind": "measured" if ttfts else None,
        "valid": not reasons,
        "invalid_reason": "; ".join(reasons),
    }
    return summary


def invalid_reasons(
    rows: Sequence[RequestRecord], fresh: Counters, before: Counters, after: Counters
) -> list[str]:
    """Return why a cell's numbers cannot be trusted; nothing if they can; see ``summarize``."""
    reasons = []
    failed = sum(row.status != "ok" for row in rows)
    if failed:
        reasons.append(f"{failed} of {len(rows)} requests failed")
    if fresh.hit_tokens:
        reasons.append(f"the cache had {fresh.hit_tokens} hit tokens before the first request")
    ok = [row for row in rows if row.status == "ok"]
    for name, ours, engines in (
        ("cached", sum(r.cached_tokens for r in ok), after.hit_tokens - before.hit_tokens),
        ("queried", sum(r.prompt_tokens for r in ok), after.queried_tokens - before.queried_tokens),
    ):
        if ours != engines:
            reasons.append(f"requests sum up to {ours} {name} tokens, the engine counts {engines}")
    return reasons
