from dataclasses import replace

import numpy as np
import pytest
from support.records import AFTER, FRESH, ROWS, SPEC

from harness.cell import OpenLoop
from harness.engines.base import Counters
from harness.load.client import ClientLoad
from harness.measure.records import TelemetryRecord
from harness.measure.summary import summarize


def test_summary_of_known_rows() -> None:
    summary = summarize(SPEC, ROWS, FRESH, AFTER, ClientLoad(0.7, 3.5))
    assert summary["hit_rate"] == 64 / 400
    assert summary["hit_rate_per_block"] == 4 / 12
    assert summary["mean_ttft_ms"] == pytest.approx(25.0)
    assert summary["median_ttft_ms"] == pytest.approx(25.0)
    assert summary["p90_ttft_ms"] == pytest.approx(np.percentile([10, 20, 30, 40], 90))
    assert summary["mean_ttft_scheduled_ms"] is None
    assert summary["duration"] == 2.0
    assert summary["request_throughput"] == 4 / 2.0
    assert summary["max_concurrent_requests"] == 1
    assert summary["client_cores"] == pytest.approx(0.2)
    assert summary["ttft_kind"] == "measured"
    assert (summary["requests"], summary["completed"], summary["failed"]) == (4, 4, 0)
    assert (summary["mode"], summary["batch_size"], summary["request_rate"]) == ("batch", 1, None)
    assert summary["cache_tokens"] == 320
    assert summary["valid"]
    assert summary["invalid_reason"] == ""


def test_ttft_from_scheduled_and_from_sent() -> None:
    rows = [replace(row, scheduled_ns=row.sent_ns - 5_000_000) for row in ROWS]
    summary = summarize(SPEC, rows, FRESH, AFTER)
    assert summary["mean_ttft_ms"] == pytest.approx(25.0)
    assert summary["mean_ttft_scheduled_ms"] == pytest.approx(30.0)
    assert summary["median_dispatch_delay_ms"] == pytest.approx(5.0)


def test_time_between_requests_counts_where_it_is_part_of_the_load() -> None:
    open_loop = SPEC.model_copy(update={"load": OpenLoop(mode="open-loop", request_rate=1)})
    overlapping = [
        replace(row, sent_ns=ROWS[0].sent_ns + 250_000_000 * row.request) for row in ROWS
    ]
    overlapping = [replace(row, end_ns=row.sent_ns + 500_000_000) for row in overlapping]
    for spec, rows, duration in (
        (SPEC, ROWS, 2.0),
        (open_loop, ROWS, 3.5),
        (SPEC, overlapping, 1.25),
        (open_loop, overlapping, 1.25),
    ):
        assert summarize(spec, rows, FRESH, AFTER)["duration"] == duration


def test_realised_rate_is_that_of_what_an_open_loop_sent() -> None:
    open_loop = SPEC.model_copy(update={"load": OpenLoop(mode="open-loop", request_rate=2)})
    # One a second; the gap of one that was not sent counts.
    dropped = replace(ROWS[1], status="dropped", sent_ns=None, first_token_ns=None, end_ns=None)
    for spec, rows, rate in (
        (open_loop, ROWS, 1.0),
        (open_loop, [ROWS[0], dropped, *ROWS[2:]], 2 / 3),
        (open_loop, [replace(ROWS[0], warm_up=True), *ROWS[1:]], 1.0),
        (open_loop, ROWS[:1], None),
        (open_loop, [ROWS[0], ROWS[0]], None),
        (SPEC, ROWS, None),
    ):
        found = summarize(spec, rows, FRESH, AFTER)["realised_request_rate"]
        assert found == (rate and pytest.approx(rate))


def test_failed_and_dropped_requests_are_counted_and_not_averaged_in() -> None:
    lost = {"cached_tokens": None, "output_tokens": None}
    rows = [
        *ROWS[:2],
        replace(ROWS[2], status="reset", error="x", **lost),
        replace(ROWS[3], status="dropped", error="x", sent_ns=None, first_token_ns=None, **lost),
    ]
    summary = summarize(SPEC, rows, FRESH, Counters(207, 32))
    assert summary["mean_ttft_ms"] == pytest.approx(15.0)
    assert (summary["completed"], summary["failed"], summary["dropped"]) == (2, 1, 1)
    assert summary["faults"] == {"dropped": 1, "reset": 1}
    assert summary["total_input_tokens"] == 200


def test_requests_that_warm_up_count_in_no_total() -> None:
    rows = [replace(ROWS[0], warm_up=True, cached_tokens=64), *ROWS[1:]]
    summary = summarize(SPEC, rows, FRESH, Counters(407, 128))
    assert summary["valid"], summary["invalid_reason"]
    assert (summary["warm_up_requests"], summary["requests"]) == (1, 3)
    assert summary["hit_rate"] == 64 / 300
    assert summary["mean_ttft_ms"] == pytest.approx(30.0)


def test_without_a_clock_there_is_no_ttft() -> None:
    rows = [replace(row, sent_ns=None, first_token_ns=None, end_ns=None) for row in ROWS]
    summary = summarize(SPEC, rows, FRESH, AFTER)
    assert summary["valid"]
    assert summary["mean_ttft_ms"] is summary["duration"] is None
    assert summary["ttft_kind"] is None


def test_share_of_unreachable_blocks_is_the_mean_of_what_was_counted_after_the_warm_up() -> None:
    rows = [replace(row, warm_up=row.request < 1) for row in ROWS]
    shares = (0.9, 0.2, float("nan"), 0.4)
    telemetry = [TelemetryRecord(i, {"unreachable": share}) for i, share in enumerate(shares)]
    found = summarize(SPEC, rows, FRESH, AFTER, telemetry=telemetry)
    assert found["unreachable"] == pytest.approx(0.3)
    assert summarize(SPEC, ROWS, FRESH, AFTER)["unreachable"] is None
    # On a server, whose policies keep a state without it.
    telemetry = [TelemetryRecord(0, {"t1": 1.0})]
    assert summarize(SPEC, ROWS, FRESH, AFTER, telemetry=telemetry)["unreachable"] is None
