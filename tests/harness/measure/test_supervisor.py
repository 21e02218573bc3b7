"""What the supervisor of a cell does when the engine does something else than measure."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import is_running, wait_for

from harness import processes
from harness.cell import Batch, CellSpec
from harness.errors import HarnessError
from harness.measure import records, supervisor

SPEC = CellSpec(
    tier="cpu",
    engine="vllm-stock",
    policy="lru",
    workload="w",
    load=Batch(batch_size=1),
    cache_blocks=10,
    block_size=32,
    threads=1,
    seed=1,
    model="m",
    dtype="float32",
)


@pytest.fixture
def folder(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(supervisor, "_WORKER", "support.fake_worker")
    monkeypatch.setenv("PYTHONPATH", str(root / "tests"))
    return tmp_path / "cells" / "c"


def _run(folder: Path) -> None:
    supervisor.run(
        {".": SPEC},
        model="m",
        workload=Path("w.jsonl"),
        engine_tree=None,
        patches_sha256=None,
        folder=folder,
    )


def _run_three(folder: Path) -> None:
    policies = {"a": "lru", "b": "arc", "c": "dbl"}
    supervisor.run(
        {name: SPEC.model_copy(update={"policy": given}) for name, given in policies.items()},
        model="m",
        workload=Path("w.jsonl"),
        engine_tree=None,
        patches_sha256=None,
        folder=folder,
    )


def _pids(text: str) -> list[int]:
    return [int(pid) for pair in re.findall(r"pids (\d+) (\d+)", text) for pid in pair]


def test_whole_folder_or_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "work")
    # As Snakemake does.
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("MKL_NUM_THREADS", "2")
    _run(folder)
    assert {path.name for path in folder.iterdir()} == {"summary.json", "engine.log"}
    assert records.read_summary(folder) == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    assert list(folder.parent.iterdir()) == [folder]
    # The child that the worker left behind is gone as well.
    wait_for(lambda: not any(map(is_running, _pids(capsys.readouterr().err))))


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("die", r"the engine died with exit code 3.*ValueError: no such device"),
        # Of a command line, the reason and not all options that there are.
        ("refuse", r"the engine died with exit code 2.*own log\n[^\n]*: error: no such option$"),
        ("crash", r"the engine was killed by SIGSEGV.*the engine's own log"),
        ("hang", r"the engine showed no progress for 2 s"),
        ("stubborn", r"the engine showed no progress for 2 s"),
    ],
)
def test_dead_or_hung_engine_is_one_message_with_its_log(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    behaviour: str,
    reason: str,
) -> None:
    monkeypatch.setenv("FAKE_WORKER", behaviour)
    monkeypatch.setattr(supervisor, "STALL_SECONDS", 2.0)
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 0.5)
    with pytest.raises(HarnessError, match=f"(?s){reason}") as raised:
        _run(folder)
    log = folder.parent / "c.failed.log"
    assert str(log) in str(raised.value)
    assert list(folder.parent.iterdir()) == [log]
    pids = _pids(capsys.readouterr().err)
    assert len(pids) == 2
    wait_for(lambda: not any(map(is_running, pids)))


def test_cells_that_are_compared_take_turns(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "take turns")
    _run_three(folder)
    assert (folder.parent / "log").read_text() == "abccbabca"
    assert {path.name for path in folder.iterdir()} == {"a", "b", "c"}
    for name in ("a", "b", "c"):
        files = {path.name for path in (folder / name).iterdir()}
        assert files == {"summary.json", "engine.log"}
    pids = _pids(capsys.readouterr().err)
    assert len(pids) == 6
    wait_for(lambda: not any(map(is_running, pids)))


def test_one_that_dies_ends_all_and_is_the_one_that_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "one dies")
    reason = "(?s)cell b: the engine died with exit code 3.*ValueError: no such device"
    with pytest.raises(HarnessError, match=reason):
        _run_three(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["c.failed.log"]
    pids = _pids(capsys.readouterr().err)
    assert len(pids) == 6
    wait_for(lambda: not any(map(is_running, pids)))


def test_one_that_hangs_within_its_turn_ends_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "one hangs")
    monkeypatch.setattr(supervisor, "STALL_SECONDS", 4.0)
    reason = "the engine showed no progress for 4 s, nor did those that it takes turns with"
    with pytest.raises(HarnessError, match=reason):
        _run_three(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["c.failed.log"]
    pids = _pids(capsys.readouterr().err)
    assert len(pids) == 6
    wait_for(lambda: not any(map(is_running, pids)))


_SCRIPT = """
import signal
import sys
# Whoever started the tests may have it ignored, as nohup does.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from pathlib import Path
sys.path.insert(0, {tests!r})
from harness import cli
from harness.measure import supervisor
from harness.cell import CellSpec
supervisor._WORKER = "support.fake_worker"
spec = CellSpec.model_validate_json({spec!r})
cli._measure = lambda arguments: supervisor.run(
    {{".": spec}},
    model="m",
    workload=Path("w"),
    engine_tree=None,
    patches_sha256=None,
    folder=Path({folder!r}),
)
sys.exit(cli.main(["measure", "c", "g", "--model", "m", "--workload", "w", "--output", "o"]))
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGKILL, -9),
        (signal.SIGHUP, -1),
    ],
)
def test_interrupted_cell_leaves_no_process(
    folder: Path, root: Path, end: signal.Signals, code: int
) -> None:
    script = _SCRIPT.format(
        tests=str(root / "tests"), spec=SPEC.model_dump_json(), folder=str(folder)
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"FAKE_WORKER": "hang", "PYTHONPATH": f"{root}:{root / 'tests'}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    worker, child = _pids(process.stderr.readline())
    os.kill(process.pid, end)
    assert process.wait(timeout=30) == code
    process.stderr.close()
    wait_for(lambda: not is_running(worker) and not is_running(child))
    if end in (signal.SIGINT, signal.SIGTERM):
        assert list(folder.parent.iterdir()) == []


def test_read_summary_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="not a measured cell"):
        records.read_summary(tmp_path)


def test_replayed_cells_are_each_taken_by_one_of_the_processes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "replay")
    replayed = SPEC.model_copy(update={"tier": "replay", "engine": "replay"})
    supervisor.run(
        {f"c{number}": replayed for number in range(7)},
        model="m",
        workload=Path("w.jsonl"),
        engine_tree=None,
        patches_sha256=None,
        folder=folder,
        processes=2,
        requests=100,
    )
    by = [records.read_summary(folder / f"c{number}")["by"] for number in range(7)]
    assert len(set(by)) == 2
    assert {path.name for path in folder.iterdir()} == {"engine.log", *(f"c{i}" for i in range(7))}
    assert (folder / "engine.log").read_text().count("the engine's own log") == 2
    assert "c: [" not in capsys.readouterr().err  # too soon for a bar
