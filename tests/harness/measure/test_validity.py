from dataclasses import replace

import pytest
from support.records import AFTER, FRESH, ROWS, SPEC

from harness.cell import OpenLoop
from harness.engines.base import Counters
from harness.load.client import ClientLoad
from harness.measure import validity
from harness.measure.records import RequestRecord

_OPEN = SPEC.model_copy(update={"load": OpenLoop(mode="open-loop", request_rate=1)})
_DROPPED = replace(ROWS[3], status="dropped", error="x", cached_tokens=None)


def _late(milliseconds: float) -> list[RequestRecord]:
    return [replace(row, scheduled_ns=row.sent_ns - int(milliseconds * 1e6)) for row in ROWS]


def test_limits_that_are_kept() -> None:
    assert validity.reasons(_OPEN, _late(2), FRESH, AFTER, ClientLoad(0.1, 1)) == []


@pytest.mark.parametrize(
    ("rows", "fresh", "after", "client", "reason"),
    [
        (ROWS, FRESH, Counters(407, 63), None, "sum up to 64 cached tokens, the engine counts 63"),
        (ROWS, FRESH, Counters(406, 64), None, "up to 400 queried tokens, the engine counts 399"),
        (ROWS, Counters(7, 32), Counters(407, 96), None, "32 hit tokens before the first request"),
        (
            [*ROWS[:3], _DROPPED],
            FRESH,
            Counters(307, 32),
            None,
            "1 of 4 requests failed (dropped 1)",
        ),
        (ROWS, FRESH, Counters(2, 0), None, "the engine was restarted"),
        (ROWS, replace(FRESH, created=1.0), replace(AFTER, created=2.0), None, "was restarted"),
        (_late(50), FRESH, AFTER, None, "late dispatch: p99 50.0 ms after the scheduled time"),
        (ROWS, FRESH, AFTER, ClientLoad(0.9, 1.0), "the client took 0.90 of a core"),
    ],
)
def test_broken_limit_makes_the_cell_invalid(
    rows: list[RequestRecord],
    fresh: Counters,
    after: Counters,
    client: ClientLoad | None,
    reason: str,
) -> None:
    (found,) = validity.reasons(_OPEN, rows, fresh, after, client)
    assert reason in found


def test_two_processes_may_take_two_cores() -> None:
    assert validity.reasons(_OPEN, ROWS, FRESH, AFTER, ClientLoad(1.2, 1.0, processes=2)) == []


def test_batches_are_late_by_nature() -> None:
    assert validity.reasons(SPEC, _late(50), FRESH, AFTER, None) == []
