import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness import cli, config
from harness.bench import process, replay, replaying
from harness.bench.process import Cost
from harness.bench.replay import Order
from harness.cell import CellSpec
from harness.errors import HarnessError
from harness.measure import offline
from harness.measure.order import WorkerOrder
from harness.turns import Turns
from workloads import datasets, trace

_CONFIG = config.parse(replay._CONFIG, "bench")
_OUTPUT = process.output
_MOONCAKE = ["mooncake, lru: wall time", "mooncake, lru: peak resident memory"]
_ROUNDS = [{"lru": 0.9, "arc": 1.3}, {"lru": 0.5, "arc": 1.0}, {"lru": 0.8, "arc": 1.1}]


def test_grid_is_that_of_figure_3a() -> None:
    grid = _CONFIG.groups["replay-docqa-quality-s42"]
    assert {(spec.policy, spec.cache_tokens) for spec in grid.values()} == {
        (policy, size)
        for policy in ("lru", "dbl", "arc")
        for size in range(50_000, 300_001, 50_000)
    }
    params = _CONFIG.workloads["docqa-quality"].model_dump()
    assert (params["requests"], params["documents"], params["zipf_exponent"]) == (3072, 381, 1)


@pytest.mark.parametrize(
    ("what", "key"), [("cache", None), ("trace", "requests"), ("documents", "documents")]
)
def test_one_thing_grows_fourfold(what: str, key: str | None) -> None:
    (smaller, small), (larger, large) = replay._GROWTH[what]
    before, after = (_CONFIG.workloads[name].model_dump() for name in (smaller, larger))
    assert large == small * (1 if key else 4)
    assert after == (before | {key: before[key] * 4} if key else before)


class _Processes:
    """In place of measuring processes: fixed costs, and one request's ms by policy and round."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self._rounds = iter(_ROUNDS)

    def measure(self, command: Sequence[str]) -> Cost:
        self.commands.append(list(command))
        # They are this project's own, and it takes them.
        cli._parser().parse_args(command[3:])
        return Cost(seconds={"workload": 12.0, "measure": 50.0}[command[3]], peak_bytes=1 << 31)

    def output(self, command: Sequence[str], engine_tree: Path) -> list[str]:
        self.commands.append(list(command))
        ms = next(self._rounds)
        cells = Order.model_validate_json(command[-1]).cells
        return [
            "the engine's own line",
            json.dumps([_slowed(ms[cell.policy], cell) for cell in cells]),
        ]


def _slowed(ms: float, cell: CellSpec) -> float:
    """Return the ms of a larger cache, or of more documents under `arc`."""
    if cell.cache_tokens > 50_000:
        return ms * 1.5
    return ms * 1.125 if cell.workload == "docqa-uniform-many" and cell.policy == "arc" else ms


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Processes:
    fake = _Processes()
    monkeypatch.setenv(datasets.FOLDER_VARIABLE, str(tmp_path / "data"))
    monkeypatch.setattr(process, "prepare", lambda build: (build / "vllm", build / "model"))
    monkeypatch.setattr(process, "measure", fake.measure)
    monkeypatch.setattr(process, "output", fake.output)
    monkeypatch.setattr(replay, "_MILLION", 200)
    return fake


def test_medians_and_their_targets(processes: _Processes, tmp_path: Path) -> None:
    found = {result.name: result for result in replay.run(tmp_path, tmp_path / "replay.json")}
    grid = found.pop("grid of figure 3a, one seed: wall time")
    assert (grid.value, grid.ok) == (12 + 50, True)
    long = [
        found.pop(name) for name in list(found) if name.startswith("200 requests of 150 blocks")
    ]
    assert [(result.value, result.ok) for result in long] == [(2, True), (2, True), (50, None)]
    assert not (tmp_path / "million" / "log.jsonl").exists()
    assert {name: (result.value, result.ok) for name, result in found.items()} == {
        "CPU time a request, lru": (0.8, True),
        "CPU time a request, arc": (1.1, True),
        "CPU time a request, lru: cache x 4 / x 1": (pytest.approx(1.5), False),
        "CPU time a request, lru: trace x 4 / x 1": (1, True),
        "CPU time a request, lru: documents x 4 / x 1": (1, True),
        "CPU time a request, arc: cache x 4 / x 1": (pytest.approx(1.5), False),
        "CPU time a request, arc: trace x 4 / x 1": (1, True),
        "CPU time a request, arc: documents x 4 / x 1": (pytest.approx(1.125), True),
    }
    assert len(json.loads((tmp_path / "replay.json").read_text())) == 4 + len(found)


def test_the_long_log_is_one_of_requests_that_share_what_they_begin_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_MILLION", 200)
    log = tmp_path / "log.jsonl"
    replay._write_log(log)
    params = trace.Trace(kind="trace", path=str(log), format="mooncake", id_tokens=16)
    workload = trace.build("million", params, 42, log, 16)
    seen: set[int] = set()
    reused = 0
    for request in workload.requests:
        blocks = list(request.blocks())
        assert len(blocks) == 150
        reused += blocks[0] in seen
        seen.update(blocks)
    assert len(workload.requests) == 200
    assert 60 < reused < 140


def test_without_the_data_set_its_results_are_left_out(
    processes: _Processes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = replay.run(tmp_path, tmp_path / "replay.json")
    assert not [result for result in found if "mooncake" in result.name]
    assert "data set mooncake is not in" in capsys.readouterr().err
    assert not [command for command in processes.commands if "mooncake" in command]


def test_with_the_data_set(
    processes: _Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "find", lambda name: tmp_path)
    found = {result.name: result for result in replay.run(tmp_path, tmp_path / "replay.json")}
    assert [found[name].value for name in _MOONCAKE] == [50, 2]


def test_a_process_that_fails_leaves_no_results(
    processes: _Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "output", _OUTPUT)
    # Really run: it finds that no workload file was made.
    with pytest.raises(HarnessError, match=r"docqa-quality\.jsonl: no such workload file"):
        replay.run(tmp_path, tmp_path / "replay.json")
    assert not (tmp_path / "replay.json").exists()


def test_only_the_loop_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]

    def measure(order: WorkerOrder, turns: Turns, report: object) -> None:
        assert callable(report)
        clock[0] += 60  # start-up
        report("engine ready")
        for _ in range(4):
            clock[0] += 0.25
            report("some of the requests")
        clock[0] += 60  # writing
        ((folder, _),) = order.cells.items()
        (folder / "summary.json").write_text('{"requests": 500}')

    monkeypatch.setattr(offline, "measure", measure)
    monkeypatch.setattr(replaying.time, "process_time", lambda: clock[0])
    cells = [spec for spec in _CONFIG.cells.values() if spec.workload == "docqa-uniform"][:2]
    order = Order(model=tmp_path, workloads={"docqa-uniform": tmp_path}, cells=cells)
    monkeypatch.setattr("sys.argv", ["replaying", order.model_dump_json()])
    replaying.main()
    assert json.loads(capsys.readouterr().out) == [2.0, 2.0]
