import json
from pathlib import Path

from harness.bench import results
from harness.bench.results import Result

_RESULTS = [
    Result("met", 1.01, "ratio", 1.02),
    Result("missed", 1.03, "ratio", 1.02),
    Result("reported", 3.0, "us"),
]


def test_target_is_the_most_that_the_value_may_be() -> None:
    assert [result.ok for result in _RESULTS] == [True, False, None]


def test_written_as_a_list_with_the_verdict(tmp_path: Path) -> None:
    path = tmp_path / "bench" / "some.json"
    results.write(path, _RESULTS)
    assert json.loads(path.read_text())[1] == {
        "name": "missed",
        "value": 1.03,
        "unit": "ratio",
        "target": 1.02,
        "ok": False,
    }
    assert [file.name for file in path.parent.iterdir()] == ["some.json"]


def test_table_names_the_missed() -> None:
    met, missed, reported = results.table(_RESULTS).splitlines()
    assert met.endswith("ok")
    assert missed.endswith("MISSED")
    assert "target" not in reported
