"""Records of requests and policy state, the summary made of them, and the verdict on both.

``requests.parquet`` has one row a request, ``telemetry.parquet`` one row a batch; the dataclasses
below are their columns. Key names in ``summary.json`` are those of ``vllm bench serve`` where it
has one.
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
    """What became of one request. Times in ns on the monotonic clock; None: does not apply."""

    request: int
    session: int | None
    turn: int | None
    window: int | None
    scheduled_ns: int | None
    sent_ns: int
    first_byte_ns: int | None
    first_token_ns: int | None
    end_ns: int
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
        if self.first_token_ns is None:
            return None
        return (self.first_token_ns - self.sent_ns) / 1e6


@dataclass(frozen=True)
class TelemetryRecord:
    """The policy's state after the given request; None where the policy keeps none.

    Sizes of T1, T2, B1, B2 in blocks; ``p``, the size meant for T1, in blocks; ``evictions`` since
    the engine started.
    """

    request: int
    t1: int | None
    t2: int | None
    b1: int | None
    b2: int | None
    p: float | None
    evictions: int | None


def _integers(names: str, suffix: str = "") -> "list[pa.Field[pa.DataType]]":
    return [pa.field(f"{name}{suffix}", pa.int64()) for name in names.split()]


_REQUEST_SCHEMA = pa.schema(
    [
        *_integers("request session turn window"),
        *_integers("scheduled sent first_byte first_token end", "_ns"),
        *_integers("prompt cached output", "_tokens"),
        *_integers("queried cached", "_blocks"),
        pa.field("status", pa.string()),
        pa.field("error", pa.string()),
    ]
)
_TELEMETRY_SCHEMA = pa.schema(
    [
        *_integers("request t1 t2 b1 b2"),
        pa.field("p", pa.float64()),
        *_integers("evictions"),
    ]
)


def write_requests(folder: Path, rows: Sequence[RequestRecord]) -> None:
    """Write ``requests.parquet``."""
    _write(folder / REQUESTS, rows, _REQUEST_SCHEMA)


def write_telemetry(folder: Path, rows: Sequence[TelemetryRecord]) -> None:
    """Write ``telemetry.parquet``."""
    _write(folder / TELEMETRY, rows, _TELEMETRY_SCHEMA)


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write ``summary.json``."""
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")


def summarize(
    spec: CellSpec, rows: Sequence[RequestRecord], before: Counters, after: Counters
) -> dict[str, Any]:
    """Return totals, percentiles, hit rates and validity of one cell.

    Args:
        spec: The cell.
        rows: All its requests.
        before: The engine's counters when the first request was about to be sent.
        after: Its counters when the last had finished.

    """
    ok = [row for row in rows if row.status == "ok"]
    ttfts = [row.ttft_ms for row in ok if row.ttft_ms is not None]
    queried = after.queried_tokens - before.queried_tokens
    hit = after.hit_tokens - before.hit_tokens
    looked_up = sum(row.queried_blocks for row in ok)
    reasons = invalid_reasons(rows, before, after)
    summary: dict[str, Any] = {
        "cell": spec.id,
        **spec.model_dump(exclude={"model"}),
        "cache_tokens": spec.cache_tokens,
        "requests": len(rows),
        "completed": len(ok),
        "failed": len(rows) - len(ok),
        "duration": (rows[-1].end_ns - rows[0].sent_ns) / 1e9 if rows else 0.0,
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
        "ttft_kind": "measured",
        "valid": not reasons,
        "invalid_reason": "; ".join(reasons),
    }
    return summary


def invalid_reasons(rows: Sequence[RequestRecord], before: Counters, after: Counters) -> list[str]:
    """Return why a cell's numbers cannot be trusted; nothing if they can."""
    reasons = []
    failed = sum(row.status != "ok" for row in rows)
    if failed:
        reasons.append(f"{failed} of {len(rows)} requests failed")
    if before.hit_tokens:
        reasons.append(f"the cache had {before.hit_tokens} hit tokens before the first request")
    ok = [row for row in rows if row.status == "ok"]
    for name, ours, engines in (
        ("cached", sum(r.cached_tokens for r in ok), after.hit_tokens - before.hit_tokens),
        ("queried", sum(r.prompt_tokens for r in ok), after.queried_tokens - before.queried_tokens),
    ):
        if ours != engines:
            reasons.append(f"requests sum up to {ours} {name} tokens, the engine counts {engines}")
    return reasons


def _write(path: Path, rows: Sequence[Any], schema: pa.Schema) -> None:
    table = pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=schema)
    pq.write_table(table, path)
