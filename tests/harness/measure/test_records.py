import json
from pathlib import Path

import pyarrow.parquet as pq
from support.records import ROWS

from harness.disturbance import Turn
from harness.measure import records
from harness.measure.records import RequestRecord, TelemetryRecord


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
