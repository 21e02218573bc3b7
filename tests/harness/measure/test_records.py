import json
from pathlib import Path

import pyarrow.parquet as pq
from support.records import ROWS

from harness.load.client import Outcome
from harness.load.stream import Usage
from harness.measure import records
from harness.measure.disturbance import Turn
from harness.measure.records import RequestRecord, TelemetryRecord
from workloads.file import TextRequest


def test_files_keep_every_value(tmp_path: Path) -> None:
    telemetry = [TelemetryRecord(0, {"t1": 1, "p": 1.5}), TelemetryRecord(2, {"t1": 2, "p": 0.5})]
    turns = [Turn(0, 10, 20, 3, 1), Turn(2, 30, 40, None, None)]
    records.write(tmp_path, ROWS, telemetry, turns, {"hit_rate": 0.5}, {"seed": 1})
    table = pq.read_table(tmp_path / "requests.parquet")
    assert [RequestRecord(**row) for row in table.to_pylist()] == ROWS
    table = pq.read_table(tmp_path / "telemetry.parquet")
    assert table.to_pydict() == {"request": [0, 2], "t1": [1, 2], "p": [1.5, 0.5]}
    table = pq.read_table(tmp_path / "turns.parquet")
    assert [Turn(**row) for row in table.to_pylist()] == turns
    assert json.loads((tmp_path / "summary.json").read_text()) == {"hit_rate": 0.5}
    assert json.loads((tmp_path / "provenance.json").read_text()) == {"seed": 1}


def test_record_of_an_outcome() -> None:
    request = TextRequest(
        request=3, session=1, turn=2, prompt_tokens=100, output_tokens=4, parts=("d",)
    )
    ok = Outcome("ok", None, 20, 30, 40, 50, Usage(101, 32, 4))
    row = records.of_outcome(request, True, 10, ok)
    assert (row.request, row.session, row.turn, row.warm_up) == (3, 1, 2, True)
    assert (row.scheduled_ns, row.sent_ns, row.first_byte_ns) == (10, 20, 30)
    assert (row.prompt_tokens, row.cached_tokens, row.output_tokens) == (101, 32, 4)
    assert (row.ttft_ms, row.ttft_scheduled_ms) == (20 / 1e6, 30 / 1e6)
    dropped = records.of_outcome(request, False, 10, Outcome("dropped", "full"))
    assert (dropped.status, dropped.error) == ("dropped", "full")
    assert (dropped.prompt_tokens, dropped.cached_tokens) == (100, None)
    assert dropped.ttft_ms is dropped.ttft_scheduled_ms is None
