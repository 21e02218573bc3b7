"""Servers: what starts and ends them, with a stand-in; cells, on real ones of vLLM."""

import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
from support.bench import Bench
from support.processes import is_running, wait_for
from support.records import SPEC

from harness import processes
from harness.cell import BatchHTTP, Load, OpenLoop
from harness.engines import registry
from harness.engines import server as servers
from harness.engines.server import Server
from harness.errors import HarnessError
from harness.measure import records
from workloads import file

_BATCHES = BatchHTTP(mode="batch-http", batch_size=1)
_SPEC = SPEC.model_copy(update={"load": _BATCHES})


@pytest.fixture(params=["vllm", "sglang"])
def engine(request: pytest.FixtureRequest, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An engine whose server's process is a stand-in, in this environment."""
    name: str = request.param
    kind = registry.ENGINES[name]
    monkeypatch.setitem(registry.ENGINES, name, replace(kind, venv=None))  # type: ignore
    server = importlib.import_module(f"harness.engines.{name}.server")
    monkeypatch.setattr(server, "_SERVING", "support.fake_serving")
    monkeypatch.setenv("PYTHONPATH", f"{root}:{root / 'tests'}")
    return name


def _pids(said: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"pids (\d+) (\d+)", said)[-1]]


def _serve(engine: str, folder: Path, port: int | None = None) -> None:
    path = registry.ENGINES[engine].server
    assert path is not None
    kind: type[Server] = registry.imported(path)
    spec = _SPEC.model_copy(update={"engine": engine})
    with servers.serve(kind, spec, "m", 64, folder, report=lambda _: None, port=port) as served:
        assert served.url.startswith("http://127.0.0.1:")
        assert served.died() is None
        served.counters()


@pytest.mark.parametrize("behaviour", ["serve", "slow", "stubborn"])
def test_nothing_of_a_server_is_left(
    engine: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    behaviour: str,
) -> None:
    monkeypatch.setenv("FAKE_SERVING", behaviour)
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 0.5)
    _serve(engine, tmp_path)
    pids = _pids(capfd.readouterr().out)
    wait_for(lambda: not any(map(is_running, pids)))


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("die", "the server died with exit code 3 before it was healthy$"),
        ("refuse", "it does not take an option .*make it anew .`harness patch build`"),
        ("never healthy", "the server was not healthy after 2 s"),
    ],
)
def test_server_that_does_not_start_is_one_message(
    engine: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    behaviour: str,
    reason: str,
) -> None:
    monkeypatch.setenv("FAKE_SERVING", behaviour)
    monkeypatch.setattr(servers, "READY_SECONDS", 2.0)
    with pytest.raises(HarnessError, match=reason):
        _serve(engine, tmp_path)
    pids = _pids(capfd.readouterr().out)
    wait_for(lambda: not any(map(is_running, pids)))


def test_port_already_taken(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(HarnessError, match=rf"port {port} on 127.0.0.1 cannot be used"):
            _serve("vllm", tmp_path, port)


_SCRIPT = """
import sys
from pathlib import Path
from harness.cell import CellSpec
from harness.engines import server as servers
from harness.engines.vllm import server
server._SERVING = "support.fake_serving"
spec = CellSpec.model_validate_json({spec!r})
with servers.serve(server.VLLMServer, spec, "m", 64, Path({folder!r}), report=print):
    print("healthy", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_server_ends_with_the_process_that_started_it(
    root: Path, tmp_path: Path, end: signal.Signals
) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            _SCRIPT.format(spec=_SPEC.model_dump_json(), folder=str(tmp_path)),
        ],
        env=os.environ | {"FAKE_SERVING": "serve", "PYTHONPATH": f"{root}:{root / 'tests'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    while "healthy" not in said:
        said += process.stdout.readline()
    process.send_signal(end)
    process.wait(90)
    pids = _pids(said)
    wait_for(lambda: not any(map(is_running, pids)))


@pytest.mark.engine
def test_batches_over_http_hit_what_those_in_process_hit(bench: Bench) -> None:
    in_process = bench.measure("vllm", "arc")
    served = bench.measure("vllm", "arc", _BATCHES)
    requests, expected = (
        pd.read_parquet(folder / "requests.parquet") for folder in (served, in_process)
    )
    assert list(requests["cached_tokens"]) == list(expected["cached_tokens"])
    assert sum(requests["cached_tokens"]) > 0
    times = ["scheduled_ns", "sent_ns", "first_byte_ns", "first_token_ns", "end_ns"]
    assert (requests[times].diff(axis=1)[times[1:]] >= 0).all().all()
    assert {path.name for path in served.iterdir()} == {path.name for path in in_process.iterdir()}
    summary = records.read_summary(served)
    assert summary["valid"], summary["invalid_reason"]
    assert summary["client_cpu_seconds"] > 0
    assert "Prefix cache eviction policy: arc" in (served / "engine.log").read_text()
    provenance = json.loads((served / "provenance.json").read_text())
    assert str(bench.tree) in provenance["engine"]["imported_from"]
    assert provenance["engine"]["version"].startswith("0.32.0")


@pytest.mark.engine
def test_open_loop_on_the_stock_server(bench: Bench) -> None:
    served = bench.measure("vllm-stock", "lru", OpenLoop(mode="open-loop", request_rate=10))
    summary = records.read_summary(served)
    # On a busy machine requests may be sent late, which is another matter.
    assert summary["invalid_reason"] == "" or summary["invalid_reason"].startswith("late dispatch")
    assert summary["completed"] == 80
    assert summary["mean_ttft_scheduled_ms"] >= summary["mean_ttft_ms"]
    requests = pd.read_parquet(served / "requests.parquet")
    assert requests["scheduled_ns"].is_monotonic_increasing
    assert "127.0.0.1" in (served / "engine.log").read_text()


@pytest.mark.engine
def test_engine_that_dies_under_load_ends_the_cell_with_its_log(
    bench: Bench, tmp_path: Path
) -> None:
    load: Load = OpenLoop(mode="open-loop", request_rate=2)
    process = bench.start(bench.cell("vllm", "arc", load).ring, tmp_path / "cells" / "c")
    assert process.stderr is not None
    said = ""
    while "server ready" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    time.sleep(3)
    left = psutil.Process(process.pid).children(recursive=True)
    (core,) = (child for child in left if "EngineCor" in child.name())
    core.kill()
    said += process.stderr.read()
    assert process.wait(180) == 1
    assert "while requests were under way" in said
    assert "Last lines of its log" in said
    assert 'Traceback (most recent call last):\n  File "<' not in said
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["c.failed.log"]
    wait_for(lambda: not any(is_running(child.pid) for child in left))


@pytest.mark.engine
def test_workload_of_another_tokenizer_is_refused_before_a_server_starts(
    bench: Bench, tmp_path: Path
) -> None:
    given = file.read(bench.workload)
    changed = [replace(r, prompt_tokens=7) for r in given.requests]
    other = tmp_path / "other.jsonl"
    file.write(other, type(given)(given.header, tuple(changed), given.texts))  # type: ignore
    run = bench.run(bench.cell("vllm", "arc", _BATCHES).ring, tmp_path / "c", other)
    assert run.returncode == 1
    assert "it was made with another tokenizer" in run.stderr
    assert "Traceback" not in run.stderr
