import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.load import (
    Stand,
    by_request,
    in_order,
    left_over,
    one_by_one,
    prompts,
    stand,
    workload,
)
from support.processes import wait_for
from support.scripted import CASES, scripted

from harness.bench.mock import Behaviour, Truth
from harness.cell import ClosedLoop
from harness.engines.vllm.server import VLLMServer
from harness.errors import HarnessError
from harness.load import closed_loop, limits
from harness.load.client import ClientLoad, Outcome
from harness.measure import records, served
from workloads.file import Workload


def _drive(
    server: Any, work: Workload, folder: Path, *, seed: int = 1, **load: Any
) -> tuple[list[Outcome], ClientLoad, int]:
    """Return outcomes, what it cost, and how often an answer was reported."""
    answers = []
    spec = ClosedLoop(mode="closed-loop", **({"users": 4, "think_time_mean": 0.02} | load))
    given = prompts(len(work.requests))
    sent, cost = closed_loop.drive(
        spec, work, given, seed, server, folder, lambda: answers.append(1)
    )
    assert all(scheduled_ns is None for scheduled_ns, _ in sent)
    assert left_over(str(folder / "locust")) == []
    return [outcome for _, outcome in sent], cost, len(answers)


def _sessions(work: Workload, truth: dict[int, Truth]) -> list[list[Truth]]:
    found: dict[int | None, list[Truth]] = defaultdict(list)
    for request in work.requests:
        found[request.session].append(truth[request.request])
    return list(found.values())


def _most_open(truths: Sequence[Truth]) -> int:
    changes = sorted(
        change
        for truth in truths
        for change in ((truth.received_ns, 1), (truth.first_token_ns or 0, -1))
    )
    return max(sum(step for _, step in changes[:end]) for end in range(1, len(changes) + 1))


def _think_s(seed: int, mean: float, request: int) -> float:
    return random.Random(f"{seed}/think/{request}").expovariate(1 / mean)


@pytest.mark.parametrize("processes", [1, 2])
def test_conversations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    # A proxy is none of its business.
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    work = workload(requests=40, sessions=10)
    with stand(Behaviour(ttft_ms=30, itl_ms=5), tmp_path / "mock") as server:
        outcomes, cost, answers = _drive(
            server, work, tmp_path, seed=5, think_time_mean=0.1, processes=processes
        )
        truth = by_request(server.mock.truth())
    # Every request once.
    assert sorted(truth) == list(range(40))
    assert [outcome.status for outcome in outcomes] == ["ok"] * 40
    assert all(map(in_order, outcomes))
    assert answers == 40
    for outcome, request in zip(outcomes, work.requests, strict=True):
        told = truth[request.request]
        assert outcome.usage is not None
        assert outcome.usage.cached_tokens == told.cached_tokens
        assert outcome.sent_ns is not None
        assert outcome.sent_ns < told.received_ns
    # In order, each after the last answer and the time to think, which is the request's own.
    delays = []
    for turns in _sessions(work, truth):
        for last, following in pairwise(turns):
            request = int((following.x_request_id or "").removeprefix("request-"))
            think_s = _think_s(5, 0.1, request)
            delays.append((following.received_ns - (last.end_ns or 0)) / 1e9 - think_s)
    assert len(delays) == 30
    assert min(delays) > -0.005
    assert sorted(delays)[15] < 0.1
    assert 2 <= _most_open(list(truth.values())) <= 4
    assert cost.processes == processes
    assert 0 < cost.cpu_seconds < cost.seconds * processes
    # It took about what four users need, who each have a quarter of it.
    assert 1.0 < cost.seconds < 15


def test_reading_takes_its_time(tmp_path: Path) -> None:
    work = workload(requests=8, sessions=4, output_tokens=20)
    with stand(Behaviour(), tmp_path / "mock") as server:
        _drive(server, work, tmp_path, think_time_mean=0.001, reading_speed=40.0)
        truth = by_request(server.mock.truth())
    for first, second in _sessions(work, truth):
        assert (second.received_ns - (first.end_ns or 0)) / 1e9 > 0.495


def test_requests_that_stand_alone_and_more_users_than_these(tmp_path: Path) -> None:
    with stand(Behaviour(), tmp_path / "mock") as server:
        outcomes, _, _ = _drive(server, workload(requests=3), tmp_path, users=8)
        assert sorted(by_request(server.mock.truth())) == [0, 1, 2]
    assert [outcome.status for outcome in outcomes] == ["ok"] * 3


def test_process_without_a_session_does_not_hold_up_the_others(tmp_path: Path) -> None:
    work = workload(requests=3, sessions=1)
    with stand(Behaviour(), tmp_path / "mock") as server:
        outcomes, cost, _ = _drive(server, work, tmp_path, users=2, processes=2)
    assert [outcome.status for outcome in outcomes] == ["ok"] * 3
    assert cost.processes == 2


def test_both_clients_give_a_fault_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closed_loop, "SILENCE_SECONDS", 1.0)
    names = list(CASES)
    work = workload(requests=len(names))
    with scripted({i: CASES[name][1] for i, name in enumerate(names)}) as server:
        outcomes, _, answers = _drive(server, work, tmp_path, users=len(names))
        assert set(server.came.values()) == {1}
    found = dict(zip(names, (outcome.status for outcome in outcomes), strict=True))
    # tests/harness/load/test_client.py asserts the same of the other.
    assert found == {name: status for name, (status, _) in CASES.items()}
    assert answers == len(names)
    for outcome in outcomes:
        assert in_order(outcome)
        assert (outcome.error is None) == (outcome.status == "ok")
        assert "\n" not in (outcome.error or "")
        assert (outcome.usage is None) == (outcome.status != "ok")


def test_faults_of_the_mock_as_the_other_client_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closed_loop, "SILENCE_SECONDS", 1.0)
    behaviour = Behaviour(
        error_every=10,
        reset_every=3,
        truncate_every=4,
        empty_every=5,
        stream_error_every=11,
        hang_every=13,
        split="bytes",
    )
    with stand(behaviour, tmp_path / "mock1") as server:
        ours = one_by_one(server.url, 14, silence_seconds=1.0)
    with stand(behaviour, tmp_path / "mock2") as server:
        # One user sends them in order, too.
        outcomes, _, _ = _drive(
            server, workload(requests=14), tmp_path, users=1, think_time_mean=0.001
        )
    assert [outcome.status for outcome in outcomes] == [outcome.status for outcome in ours]
    assert len({outcome.status for outcome in ours}) == 7
    # And the records have the same form.
    for one, other in zip(ours, outcomes, strict=True):
        assert one.usage == other.usage
        for name, value in asdict(one).items():
            # What was received before a reset, but not read, is lost.
            if one.status != "reset" or name not in ("first_byte_ns", "first_token_ns"):
                assert type(value) is type(asdict(other)[name]), name
    request = workload(requests=1).requests[0]
    rows = [served.of_outcome(request, False, None, outcome) for outcome in outcomes]
    records.write(tmp_path, rows, [], [], {}, {})


@pytest.mark.parametrize("place", ["variable", ".locust.conf", "locust.conf", "pyproject.toml"])
def test_options_that_a_user_gives_locust_elsewhere_do_not_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    # Locust ends at once where this reaches it.
    name, value = "expect-workers", "none"
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    match place:
        case "variable":
            monkeypatch.setenv("LOCUST_EXPECT_WORKERS", value)
            monkeypatch.setenv("LOCUST_TAGS", "foreign")
        case ".locust.conf":
            (home / place).write_text(f"{name} = {value}\n")
        case "locust.conf":
            (here / place).write_text(f"{name} = {value}\n")
        case _:
            (here / place).write_text(f'[tool.locust]\n{name} = "{value}"\n')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    with stand(Behaviour(), tmp_path / "mock") as server:
        outcomes, _, _ = _drive(server, workload(requests=2), tmp_path)
    assert [outcome.status for outcome in outcomes] == ["ok"] * 2


def test_what_is_found_from_here_is_found_from_where_locust_runs(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["one", "", "/two"]))
    given = closed_loop._environment(tmp_path)["PYTHONPATH"]
    assert given.split(os.pathsep) == [str(root), str(tmp_path / "one"), "/two"]


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as probe, subprocess.Popen(["sleep", "60"]) as process:
        probe.bind(("127.0.0.1", 0))
        server = VLLMServer(f"http://127.0.0.1:{probe.getsockname()[1]}", process)
        try:
            outcomes, _, _ = _drive(server, workload(requests=2), tmp_path)
        finally:
            process.kill()
    assert [outcome.status for outcome in outcomes] == ["refused", "refused"]
    assert outcomes[0].sent_ns is not None
    assert outcomes[0].end_ns is not None


def test_connections_are_used_again_but_not_when_they_may_be_closing(tmp_path: Path) -> None:
    work = workload(requests=3, sessions=2)
    with scripted(dict.fromkeys(range(3), CASES["whole"][1])) as server:
        # Request 2 follows the reading of request 0's answer; request 1 follows at once.
        _drive(server, work, tmp_path, users=1, think_time_mean=0.001, reading_speed=0.8)
    assert server.connections == 2


def _in_background(server: Stand, folder: Path, **load: Any) -> tuple[threading.Thread, list[str]]:
    """Start a run that takes long; return its thread, and what it will have failed with."""
    said: list[str] = []

    def run() -> None:
        try:
            _drive(server, workload(requests=2000), folder, **load)
        except HarnessError as error:
            said.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    records_of = folder / "locust"
    wait_for(lambda: records_of.exists() and closed_loop._count_lines(records_of) > 4, 30)
    return thread, said


def _locusts(folder: Path) -> list[psutil.Process]:
    """Return the processes of a run, the first of which is the one that was started."""
    mine = psutil.Process().children(recursive=True)
    found = [p for p in mine if str(folder / "locust") in " ".join(p.cmdline())]
    return sorted(found, key=lambda process: process.ppid() != os.getpid())


@pytest.mark.parametrize(
    ("processes", "victim", "message"),
    [
        (2, 0, "locust was killed by SIGKILL"),
        (2, 1, "locust died with exit code 1"),
    ],
)
def test_locust_that_dies_is_an_error_and_nothing_is_left(
    tmp_path: Path, processes: int, victim: int, message: str
) -> None:
    with stand(Behaviour(ttft_ms=10), tmp_path / "mock") as server:
        thread, said = _in_background(server, tmp_path, processes=processes)
        running = _locusts(tmp_path)
        assert len(running) == 1 + processes
        running[victim].send_signal(signal.SIGKILL)
        thread.join(30)
        assert not thread.is_alive()
    assert said == [message]
    wait_for(lambda: left_over(str(tmp_path / "locust")) == [])


def test_server_that_dies_ends_it(tmp_path: Path) -> None:
    with stand(Behaviour(die_after=10, ttft_ms=10), tmp_path / "mock") as server:
        start = time.monotonic()
        with pytest.raises(HarnessError) as error:
            _drive(server, workload(requests=2000), tmp_path, processes=2)
        assert time.monotonic() - start < 20
    assert str(error.value) == "the server died with exit code 3 while requests were under way"
    wait_for(lambda: left_over(str(tmp_path / "locust")) == [])


def test_user_that_fails_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    work = workload(requests=4, sessions=2)

    def write(path: Path, work: Workload, given: Sequence[Sequence[int]]) -> None:
        _write(path, work, given)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        del lines[1]["prompt"]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    _write = closed_loop.write_prompts
    with pytest.MonkeyPatch.context() as patch, stand(Behaviour(), tmp_path / "mock") as server:
        patch.setattr(closed_loop, "write_prompts", write)
        with pytest.raises(HarnessError, match="records of 2 of 4 requests, by 1 of 1 processes"):
            _drive(server, work, tmp_path)
    assert "KeyError: 'prompt'" in capfd.readouterr().out


def test_more_users_than_a_process_may_have_streams_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "raise_stream_limit", lambda: 3)
    with (
        stand(Behaviour(), tmp_path / "mock") as server,
        pytest.raises(HarnessError, match=r"^4 users in a process .* the system allows 3: raise"),
    ):
        _drive(server, workload(requests=2), tmp_path, users=8, processes=2)


def test_two_records_of_a_request_are_an_error(tmp_path: Path) -> None:
    row = json.dumps({"request": 0, **asdict(Outcome("ok"))})
    (tmp_path / "records-1.jsonl").write_text(f"{row}\n{row}\n")
    with pytest.raises(HarnessError, match="request 0 has two records"):
        closed_loop._collect(tmp_path, 2, 1)


def test_by_hand_with_the_web_page(tmp_path: Path) -> None:
    """As README.md in harness/load says, and once more from the page when it is over."""
    closed_loop.write_prompts(tmp_path / "prompts.jsonl", workload(6, sessions=3), prompts(6))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    page = f"http://127.0.0.1:{port}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def fetch(path: str, data: bytes | None = None) -> str:
        with opener.open(page + path, data=data, timeout=10) as response:
            return str(response.read().decode())

    def is_up() -> bool:
        try:
            return "Locust" in fetch("/")
        except OSError:
            return False

    def stats() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(fetch("/stats/requests"))
        return found

    with stand(Behaviour(ttft_ms=5, itl_ms=1), tmp_path / "mock") as server:
        command = [sys.executable, "-m", "locust", "-f", str(closed_loop.LOCUSTFILE)]
        command += ["--host", server.url, "--prompts", str(tmp_path / "prompts.jsonl")]
        command += ["--served-model", "mock", "--think-time-mean", "0.02"]
        command += ["--web-host", "127.0.0.1", "--web-port", str(port)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            try:
                wait_for(is_up, 30)
                for expected in (6, 12):
                    said = json.loads(fetch("/swarm", b"user_count=2&spawn_rate=2"))
                    assert said["success"]
                    # At first the page may still say so of the run before.
                    wait_for(lambda n=expected: len(server.mock.truth()) >= n, 20)  # type: ignore
                    wait_for(lambda: stats()["state"] == "stopped", 20)
                    assert len(server.mock.truth()) == expected
                    found = {
                        (row["method"], row["name"]): row["num_requests"]
                        for row in stats()["stats"]
                    }
                    assert found["POST", "/v1/completions"] == 6
                    assert found["TTFT", "/v1/completions"] == 6
                    assert stats()["errors"] == []
            finally:
                process.terminate()
                assert process.wait(20) == 0
