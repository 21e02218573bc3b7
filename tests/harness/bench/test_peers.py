import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.bench import mock, peers
from harness.bench.peers import Aiperf, Guidellm, Load, Peer, PeerRun, VllmBench
from harness.errors import HarnessError

LOAD = Load(
    base_url="http://127.0.0.1:1",
    model="mock",
    tokenizer=Path("tokenizer"),
    requests=3,
    rate=100,
    output_tokens=8,
)
FIRST, SECOND, THIRD = LOAD.prompts()


def executable(file: Path, script: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def guidellm(prompt: str, ttft_ms: float | None) -> dict[str, Any]:
    body = {"model": "mock", "stream": True, "max_tokens": 8, "prompt": prompt}
    arguments = {"method": None, "stream": True, "headers": None, "body": body}
    return {"request_args": json.dumps(arguments), "time_to_first_token_ms": ttft_ms}


def aiperf(prompt: str, ttft_ms: float, **more: Any) -> str:
    metrics = {"time_to_first_token": {"value": ttft_ms, "unit": "ms"}}
    metadata = {"session_num": 0, "x_request_id": "2538bdfe", "conversation_id": prompt}
    return json.dumps({"metadata": metadata, "metrics": metrics, **more}) + "\n"


OUTPUTS = [
    (
        VllmBench(),
        "result.json",
        json.dumps({"ttfts": [0.0521, 0, 0.0625], "errors": ["", "Internal Server Error", ""]}),
    ),
    (
        Guidellm(Path("bin")),
        "result.json",
        json.dumps(
            {
                "benchmarks": [
                    {
                        "requests": {
                            "successful": [guidellm(THIRD, 62.5), guidellm(FIRST, 52.1)],
                            "errored": [guidellm(SECOND, None)],
                            "incomplete": [],
                        }
                    }
                ]
            }
        ),
    ),
    (
        Aiperf(Path("bin")),
        "profile_export.jsonl",
        aiperf(THIRD, 62.5)
        + json.dumps(
            {
                "metadata": {"conversation_id": SECOND},
                "metrics": {"error_isl": {"value": 5, "unit": "tokens"}},
                "error": {"code": 500, "type": "Internal Server Error", "message": ""},
            }
        )
        + "\n"
        + aiperf(FIRST, 52.1, error=None),
    ),
]


@pytest.mark.parametrize(("peer", "file", "output"), OUTPUTS, ids=lambda value: str(value)[:12])
def test_ttft_is_by_prompt_and_only_of_successes(
    peer: Peer, file: str, output: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_text(output)
    assert peer.ttft_ms(LOAD, tmp_path) == {FIRST: pytest.approx(52.1), THIRD: 62.5}


@pytest.mark.parametrize("peer", [VllmBench(), Guidellm(Path("bin")), Aiperf(Path("bin"))])
def test_every_tool_is_given_all_prompts_once_and_in_order(peer: Peer, tmp_path: Path) -> None:
    peer.command(LOAD, tmp_path)
    rows = map(json.loads, (tmp_path / "prompts.jsonl").read_text().splitlines())
    assert [row.get("prompt", row.get("text")) for row in rows] == [FIRST, SECOND, THIRD]
    assert len(set(LOAD.prompts())) == LOAD.requests


class Script(Peer):
    """A tool that is a line of shell, and reports what it wrote into a file."""

    name = "script"

    def __init__(self, line: str) -> None:
        self.line = line

    def command(self, load: Load, folder: Path) -> list[str]:
        return ["/bin/sh", "-c", self.line]

    def ttft_ms(self, load: Load, folder: Path) -> dict[str, float]:
        reported = (folder / "result").read_text()
        return {FIRST: float(reported)} if reported else {}


def test_run_counts_the_cpu_time_of_all_processes(tmp_path: Path) -> None:
    burn = f"{shlex.quote(sys.executable)} -c 'import time\nwhile time.process_time() < 0.5: pass'"
    found = peers.run(Script(f"({burn}); echo 52.5 > result"), LOAD, tmp_path, 30)
    assert found.ttft_ms == {FIRST: 52.5}
    assert 0.5 <= found.cpu_seconds < 2


def test_run_does_not_take_old_results_for_new(tmp_path: Path) -> None:
    peers.run(Script("echo 1 > result"), LOAD, tmp_path, 30)
    with pytest.raises(HarnessError, match="script: no results that can be read"):
        peers.run(Script("true"), LOAD, tmp_path, 30)


def test_a_tool_runs_offline(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"no results.*\n1 1$"):
        peers.run(Script('echo "$HF_HUB_OFFLINE" "$DO_NOT_TRACK"'), LOAD, tmp_path, 30)


def test_a_tool_that_fails_shows_its_last_lines(tmp_path: Path) -> None:
    line = "seq 20; echo the reason >&2; exit 3"
    with pytest.raises(HarnessError, match=r"^script: exit code 3:\n12\n(.*\n)*the reason$"):
        peers.run(Script(line), LOAD, tmp_path, 30)


def test_a_tool_whose_requests_all_failed_has_failed(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"^script: no request succeeded:\nrefused$"):
        peers.run(Script("echo refused; : > result"), LOAD, tmp_path, 30)


def test_a_tool_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    line = "sleep 1000 & echo $! > child; echo waiting; wait"
    start = time.monotonic()
    with pytest.raises(HarnessError, match=r"^script: not done after 0.5 s:\nwaiting$"):
        peers.run(Script(line), LOAD, tmp_path, 0.5)
    assert time.monotonic() - start < 5
    assert ended(int((tmp_path / "script" / "child").read_text()))


def test_nothing_outlives_a_tool(tmp_path: Path) -> None:
    peers.run(Script("sleep 1000 & echo $! > child; echo 1 > result"), LOAD, tmp_path, 30)
    assert ended(int((tmp_path / "script" / "child").read_text()))


def ended(pid: int) -> bool:
    """Whether a process, perhaps just killed, ends."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or process.wait(5) is None
    except psutil.NoSuchProcess:
        return True


def test_a_tool_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"^guidellm: does not start: .*none/guidellm"):
        peers.run(Guidellm(tmp_path / "none"), LOAD, tmp_path, 30)


# The Python of an environment to be: it makes another one, or plays pip.
FAKE_PYTHON = """
echo "$@" >> {calls}
if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
{then}
"""


def fake_python(
    folder: Path, monkeypatch: pytest.MonkeyPatch, then: str = "", lock: str = "aiperf.lock"
) -> Path:
    """Have environments made by a script; return the file that it writes its calls to."""
    calls = folder / "calls"
    executable(folder / "python", FAKE_PYTHON.format(calls=calls, then=then))
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return calls


def test_environment_is_made_once_from_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_python(tmp_path, monkeypatch)
    found = peers.environment("aiperf", tmp_path)
    assert found == tmp_path / "peers" / "aiperf" / "bin"
    venv, pip = calls.read_text().splitlines()
    assert venv.startswith("-m venv ")
    assert "--no-deps --require-hashes -r " in pip
    assert pip.endswith("env/aiperf.lock")
    peers.environment("aiperf", tmp_path)
    assert len(calls.read_text().splitlines()) == 2


def test_environment_is_made_anew_for_another_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_python(tmp_path, monkeypatch)
    monkeypatch.setattr(peers, "_ENV", tmp_path)
    for content in ("a==1", "a==2"):
        (tmp_path / "aiperf.lock").write_text(content)
        leftover = peers.environment("aiperf", tmp_path) / "leftover"
        assert not leftover.exists()
        leftover.touch()
    assert len(calls.read_text().splitlines()) == 4


def test_environment_tells_in_a_line_why_pip_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail = 'if [ "$2" = pip ]; then printf "WARNING: x\\nERROR: the reason\\n\\n" >&2; exit 1; fi'
    calls = fake_python(tmp_path, monkeypatch, fail)
    for _ in range(2):  # half an environment is not taken for a whole one
        with pytest.raises(HarnessError, match=r"^aiperf: cannot be installed: the reason$"):
            peers.environment("aiperf", tmp_path)
    assert len(calls.read_text().splitlines()) == 4


def test_torch_is_looked_for_on_its_own_index_after_the_configured_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = 'case "$*" in *torch-cpu.lock) exit 1;; esac'
    calls = fake_python(tmp_path, monkeypatch, missing)
    peers.environment("guidellm", tmp_path)
    _, configured, torchs, rest = calls.read_text().splitlines()
    assert configured.endswith("torch-cpu.lock")
    assert torchs.endswith("torch-cpu.lock --index-url https://download.pytorch.org/whl/cpu")
    assert rest.endswith("guidellm.lock")


@pytest.mark.engine
def test_vllm_bench_reports_what_the_mock_server_did(tmp_path: Path, tiny_model: Path) -> None:
    behaviour = mock.Behaviour(ttft_ms=50, itl_ms=5, error_every=4)
    with mock.running(behaviour, tmp_path) as server:
        load = Load(server.url, mock.MODEL, tiny_model, requests=40, rate=50, output_tokens=8)
        found: PeerRun = peers.run(VllmBench(), load, tmp_path, 120)
        truths = server.truth()
    assert sorted(truth.prompt or "" for truth in truths) == sorted(load.prompts())
    answered = {truth.prompt: truth for truth in truths if truth.outcome == "ok"}
    assert set(found.ttft_ms) == set(answered)
    assert len(answered) == 30
    for prompt, truth in answered.items():
        assert truth.output_tokens == 8
        assert truth.first_token_ns is not None
        assert prompt is not None
        # What comes on top is the way there and back, on a machine that may be busy.
        on_top = found.ttft_ms[prompt] - (truth.first_token_ns - truth.received_ns) / 1e6
        assert 0 < on_top < 500
    arrivals = sorted(truth.received_ns for truth in truths)
    assert (arrivals[-1] - arrivals[0]) / 1e9 == pytest.approx(39 / 50, rel=0.2)
    assert found.cpu_seconds > 0.5
