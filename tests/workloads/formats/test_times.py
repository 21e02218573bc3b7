import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workloads.file import WorkloadError
from workloads.formats import log as logs
from workloads.formats.registry import FORMATS
from workloads.formats.times import arrivals


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def _arrivals(
    path: Path, lines: list[dict[str, Any]], seed: int = 0, **rates: float
) -> tuple[list[int], list[float | None], list[str]]:
    """Return the order, the times in it, and the notes, of requests of one id each."""
    base = {"input_length": 16, "hash_ids": [1]}
    path.write_text("".join(json.dumps(base | line) + "\n" for line in lines))
    log = logs.read(path, FORMATS["mooncake"], 16, id_tokens=16)
    given = {"arrival_rate": 1.0, "think_time_mean": 60.0} | rates
    order, times, notes = arrivals(log, seed=seed, **given)
    shown = [None if np.isnan(time) else float(time) for time in times[order]]
    return order.tolist(), shown, notes


def test_requests_come_in_the_order_of_their_times_from_the_first(path: Path) -> None:
    lines = [{"timestamp": time} for time in (20, 10, 30, 10)]
    order, times, notes = _arrivals(path, lines)
    assert (order, times) == ([1, 3, 0, 2], [0, 0, 10, 20])
    assert notes == ["the file is not in the order of time: its requests were sorted"]
    assert _arrivals(path, lines[1:3])[1:] == ([0, 20], [])


def test_later_turns_come_after_their_delays(path: Path) -> None:
    lines = [
        {"session_id": "a", "timestamp": 100},
        {"session_id": "a", "delay": 50},
        {"session_id": "b", "timestamp": 110},
        {"session_id": "a", "delay": 1},
    ]
    order, times, notes = _arrivals(path, lines)
    assert (order, times) == ([0, 2, 1, 3], [0, 10, 50, 51])
    assert len(notes) == 1
    # Without a delay, after a time to think.
    _, times, _ = _arrivals(path, [lines[0], {"session_id": "a"}], think_time_mean=1)
    assert times[1]
    assert times[1] not in (50.0, _arrivals(path, [lines[0], {"session_id": "a"}])[1][1])


def test_times_from_two_beginnings_are_refused(path: Path) -> None:
    since_1970, own = {"timestamp": 1_700_000_000}, {"timestamp": 500}
    reason = "log: 2 times count since 1970, 1 from another beginning, such as 500 ms"
    with pytest.raises(WorkloadError, match=reason):
        _arrivals(path, [since_1970, own, since_1970])
    # No time is none of the two.
    assert _arrivals(path, [since_1970, {}])[0] == [0, 1]


def test_reading_tells_how_far_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_PROGRESS_SECONDS", 0)
    path.write_text(2 * (json.dumps({"input_length": 16, "hash_ids": [1]}) + "\n"))
    said: list[str] = []
    logs.read(path, FORMATS["mooncake"], 16, id_tokens=16, report=said.append)
    assert said == ["log: 1 requests read", "log: 2 requests read"]


def test_conversations_without_times_begin_as_a_poisson_process(path: Path) -> None:
    lines = [{"session_id": str(i // 2), "delay": 7 * (i % 2) or None} for i in range(4000)]
    order, times, notes = _arrivals(path, lines, arrival_rate=10)
    assert notes[0].startswith("no times in the log: they are made up")
    by_request = dict(zip(order, times, strict=True))
    begun = np.array([by_request[i] for i in range(0, 4000, 2)], dtype=float)
    gaps = np.diff(begun)
    assert gaps.mean() == pytest.approx(100, rel=0.1)
    assert gaps.std() == pytest.approx(100, rel=0.1)
    assert all(by_request[i + 1] == pytest.approx(by_request[i] + 7) for i in range(0, 4000, 2))
    assert order != list(range(4000))
    assert _arrivals(path, lines, arrival_rate=10) == (order, times, notes)
    assert _arrivals(path, lines, seed=1, arrival_rate=10)[1] != times


@pytest.mark.parametrize(
    "sessions", [["a", "b", "a", "b"], ["a", None, "a", "b"], ["a", "b", "c"], [None, None]]
)
def test_all_else_without_times_comes_as_in_the_file(
    path: Path, sessions: list[str | None]
) -> None:
    order, times, notes = _arrivals(path, [{"session_id": name} for name in sessions])
    assert order == list(range(len(sessions)))
    assert times == [None] * len(sessions)
    assert notes == []


def test_a_request_without_a_time_among_others_takes_them_from_all(path: Path) -> None:
    order, times, notes = _arrivals(path, [{"timestamp": 5}, {}, {"timestamp": 1}])
    assert (order, times) == ([0, 1, 2], [None, None, None])
    assert notes == [
        "requests without a time: 1; so all come in the order of the file, without times"
    ]
