from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.cell import CellSpec
from harness.engines.base import Counters
from harness.measure import records
from harness.measure.records import RequestRecord, TelemetryRecord

SPEC = CellSpec(
    tier="cpu",
    engine="vllm",
    policy="arc",
    workload="w",
    batch_size=1,
    cache_blocks=10,
    block_size=32,
    seed=1,
    model="m",
    dtype="float32",
)


def _row(number: int, ttft_ms: float) -> RequestRecord:
    sent_ns = 1_000_000_000 * number
    return RequestRecord(
        request=number,
        session=None,
        turn=None,
        window=0,
        warm_up=False,
        scheduled_ns=None,
        sent_ns=sent_ns,
        first_byte_ns=None,
        first_token_ns=sent_ns + int(ttft_ms * 1e6),
        end_ns=sent_ns + 500_000_000,
        prompt_tokens=100,
        cached_tokens=32 if number % 2 else 0,
        output_tokens=1,
        queried_blocks=3,
        cached_blocks=1,
        status="ok",
        error=None,
    )


ROWS = [_row(i, ttft) for i, ttft in enumerate((10.0, 20.0, 30.0, 40.0))]
FRESH = BEFORE = Counters(7, 0)
AFTER = Counters(7 + 400, 64)


def test_summary_of_known_rows() -> None:
    summary = records.summarize(SPEC, ROWS, 3.5, FRESH, BEFORE, AFTER)
    assert summary["hit_rate"] == 64 / 400
    assert summary["hit_rate_per_block"] == 4 / 12
    assert summary["mean_ttft_ms"] == pytest.approx(25.0)
    assert summary["median_ttft_ms"] == pytest.approx(25.0)
    assert summary["p90_ttft_ms"] == pytest.approx(np.percentile([10, 20, 30, 40], 90))
    assert summary["duration"] == 3.5
    assert summary["ttft_kind"] == "measured"
    assert (summary["requests"], summary["completed"], summary["failed"]) == (4, 4, 0)
    assert summary["cache_tokens"] == 320
    assert summary["valid"]
    assert summary["invalid_reason"] == ""


@pytest.mark.parametrize(
    ("rows", "before", "after", "reason"),
    [
        (ROWS, BEFORE, Counters(407, 63), "sum up to 64 cached tokens, the engine counts 63"),
        (ROWS, BEFORE, Counters(406, 64), "sum up to 400 queried tokens, the engine counts 399"),
        (ROWS, Counters(7, 32), Counters(407, 96), "had 32 hit tokens before the first request"),
        (
            [*ROWS[:3], replace(ROWS[3], status="error", error="x", first_token_ns=None)],
            BEFORE,
            Counters(307, 32),
            "1 of 4 requests failed",
        ),
    ],
)
def test_broken_limit_makes_the_cell_invalid(
    rows: list[RequestRecord], before: Counters, after: Counters, reason: str
) -> None:
    summary = records.summarize(SPEC, rows, 1.0, before, before, after)
    assert not summary["valid"]
    assert summary["invalid_reason"].endswith(reason)


def test_failed_request_is_not_averaged_in() -> None:
    rows = [*ROWS[:3], replace(ROWS[3], status="error", error="x", first_token_ns=None)]
    summary = records.summarize(SPEC, rows, 1.0, FRESH, BEFORE, Counters(307, 32))
    assert summary["mean_ttft_ms"] == pytest.approx(20.0)
    assert summary["failed"] == 1


def test_files_keep_every_value(tmp_path: Path) -> None:
    records.write_requests(tmp_path, ROWS)
    table = pq.read_table(tmp_path / "requests.parquet")
    assert [RequestRecord(**row) for row in table.to_pylist()] == ROWS
    records.write_telemetry(
        tmp_path,
        [TelemetryRecord(0, {"t1": 1, "p": 1.5}), TelemetryRecord(2, {"t1": 2, "p": 0.5})],
    )
    table = pq.read_table(tmp_path / "telemetry.parquet")
    assert table.to_pydict() == {"request": [0, 2], "t1": [1, 2], "p": [1.5, 0.5]}


def test_requests_that_warm_up_count_nowhere() -> None:
    rows = [replace(ROWS[0], warm_up=True, cached_tokens=64), *ROWS[1:]]
    summary = records.summarize(SPEC, rows, 1.0, FRESH, Counters(107, 64), Counters(407, 128))
    assert summary["valid"], summary["invalid_reason"]
    assert (summary["warm_up_requests"], summary["requests"]) == (1, 3)
    assert summary["hit_rate"] == 64 / 300
    assert summary["mean_ttft_ms"] == pytest.approx(30.0)


def test_without_a_clock_there_is_no_ttft() -> None:
    rows = [replace(row, sent_ns=None, first_token_ns=None, end_ns=None) for row in ROWS]
    summary = records.summarize(SPEC, rows, 1.0, FRESH, BEFORE, AFTER)
    assert summary["valid"]
    assert summary["mean_ttft_ms"] is None
    assert summary["ttft_kind"] is None
