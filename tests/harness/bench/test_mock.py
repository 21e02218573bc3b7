import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError
from support.processes import is_running, wait_for

from harness.bench import mock
from harness.bench.mock import Behaviour, Mock, Truth
from harness.errors import HarnessError

WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}
T = TypeVar("T")
QUICK = Behaviour(seed=7, ttft_ms=5, ttft_sigma=0.5, itl_ms=1, itl_sigma=0.5, output_tokens=24)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mock]:
    with mock.running(QUICK, tmp_path_factory.mktemp("mock")) as server:
        yield server


def talk(server: Mock, *requests: dict[str, Any], together: bool = False) -> list[bytes]:
    """Return the bodies of the answers to requests that are sent one by one, or together."""

    async def post(session: aiohttp.ClientSession, request: dict[str, Any]) -> bytes:
        path = "chat/completions" if "messages" in request else "completions"
        async with session.post(f"{server.url}/v1/{path}", json=request) as response:
            assert response.status == 200
            return await response.read()

    async def all_of_them(session: aiohttp.ClientSession) -> list[bytes]:
        if together:
            return await asyncio.gather(*(post(session, request) for request in requests))
        return [await post(session, request) for request in requests]

    return in_session(all_of_them)


def in_session(do: Callable[[aiohttp.ClientSession], Awaitable[T]]) -> T:
    async def run() -> T:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session:
            return await do(session)

    return asyncio.run(run())


def get(url: str) -> tuple[int, str]:
    async def run(session: aiohttp.ClientSession) -> tuple[int, str]:
        async with session.get(url) as response:
            return response.status, await response.text()

    return in_session(run)


def events(stream: bytes) -> list[Any]:
    """Return the objects of a whole stream, without the last, which ends it."""
    *lines, done, empty = stream.decode().split("\n\n")
    assert done == "data: [DONE]"
    assert empty == ""
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def counters(server: Mock) -> dict[str, float]:
    families = text_string_to_metric_families(get(f"{server.url}/metrics")[1])
    samples = [sample for family in families for sample in family.samples]
    assert all(s.labels == {"model_name": "mock", "engine": "0"} for s in samples)
    return {sample.name.removeprefix("vllm:"): sample.value for sample in samples}


def raw(server: Mock, **request: Any) -> socket.socket:
    """Return a connection on which a request was sent."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    body = json.dumps({"prompt": "a b"} | request).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: mock\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def until(connection: socket.socket, mark: bytes) -> bytes:
    """Return what was received up to and with the mark."""
    received = b""
    while mark not in received:
        piece = connection.recv(1 << 16)
        assert piece, received
        received += piece
    return received


def test_completion_streams_the_fields_of_vllm(quick: Mock) -> None:
    *tokens, usage = events(talk(quick, {"prompt": "a b c", "max_tokens": 3} | WITH_USAGE)[0])
    number = quick.truth()[-1].number
    for token in (*tokens, usage):
        assert token["created"] == pytest.approx(time.time(), abs=60)
        assert list(token)[:5] == ["id", "object", "created", "model", "choices"]
        assert (token["id"], token["object"]) == (f"cmpl-{number}", "text_completion")
    assert [token["choices"] for token in tokens] == [
        [
            {
                "index": 0,
                "text": token["choices"][0]["text"],
                "logprobs": None,
                "finish_reason": reason,
                "stop_reason": None,
                "prompt_token_ids": None,
                "token_ids": None,
            }
        ]
        for token, reason in zip(tokens, [None, None, "length"], strict=True)
    ]
    assert all(token["choices"][0]["text"] for token in tokens)
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 3,
        "total_tokens": 6,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_chat_begins_with_a_role_that_is_no_token(quick: Mock) -> None:
    messages = [
        {"role": "user", "content": "é a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}]},
    ]
    stream = talk(quick, {"messages": messages, "max_completion_tokens": 2, "stream": True})[0]
    role, first, last = events(stream)
    assert role["object"] == first["object"] == "chat.completion.chunk"
    assert stream.startswith(
        f'data: {{"id":"{role["id"]}","object":"chat.completion.chunk","created":{role["created"]},'
        '"model":"mock","choices":[{"index":0,"delta":{"role":"assistant","content":""},'
        '"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}\n\n'
        'data: {"id":'.encode()
    )
    assert list(first["choices"][0]["delta"]) == ["content"]
    assert "stop_reason" not in first["choices"][0]
    assert last["choices"][0]["finish_reason"] == "length"
    truth = quick.truth()[-1]
    assert (truth.prompt, truth.prompt_tokens, truth.output_tokens) == ("é a\nb", 3, 2)
    assert truth.chunks == 4


@pytest.mark.parametrize("prompt", [{"prompt": [1, 2]}, {"messages": [{"content": "a b"}]}])
def test_answers_whole_on_request(quick: Mock, prompt: dict[str, Any]) -> None:
    answer = json.loads(talk(quick, prompt | {"max_tokens": 2})[0])
    choice = answer["choices"][0]
    assert choice.get("text") or choice["message"]["content"]
    assert choice["finish_reason"] == "length"
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (2, 2)
    truth = quick.truth()[-1]
    assert (truth.outcome, truth.output_tokens, truth.chunks) == ("ok", 2, 1)
    assert truth.prompt is None or "messages" in prompt


def test_connections_are_kept(quick: Mock) -> None:
    with raw(quick, stream=True, max_tokens=1) as connection:
        until(connection, b"\r\n0\r\n\r\n")
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: mock\r\n\r\n")
        assert until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_says_which_model_it_has_and_what_is_no_request(quick: Mock) -> None:
    assert json.loads(get(f"{quick.url}/v1/models")[1])["data"][0]["id"] == "mock"
    with raw(quick, prompt=None) as connection:
        assert until(connection, b"BadRequestError").startswith(b"HTTP/1.1 400")
    assert quick.truth()[-1].outcome == "refused"


def test_truth_is_on_the_clients_clock(quick: Mock) -> None:
    async def measure(session: aiohttp.ClientSession) -> list[int]:
        body = {"prompt": "a", "stream": True}
        times = [time.monotonic_ns()]
        async with session.post(
            f"{quick.url}/v1/completions", json=body, headers={"X-Request-Id": "mine"}
        ) as response:
            async for _ in response.content.iter_any():
                times.append(time.monotonic_ns())
        return [times[0], times[1], times[-1]]

    sent, first, last = in_session(measure)
    truth = quick.truth()[-1]
    assert truth.x_request_id == "mine"
    assert truth.prompt == "a"
    assert truth.first_token_ns is not None
    assert truth.end_ns is not None
    assert sent < truth.received_ns < truth.first_token_ns < first < truth.end_ns
    assert truth.end_ns < last + 500e6
    assert truth.first_token_ns - truth.received_ns >= truth.due_ttft_ms * 1e6


def test_same_seed_same_times_and_text_however_split(tmp_path: Path) -> None:
    request = {"prompt": "a b", "max_tokens": 40} | WITH_USAGE
    texts: dict[str, list[Any]] = {}
    truths: dict[str, list[Truth]] = {}
    streams: dict[str, list[list[bytes]]] = {}

    async def pieces(session: aiohttp.ClientSession) -> list[list[bytes]]:
        answers = []
        for path, body in (
            ("completions", request),
            ("chat/completions", request | {"messages": [{"content": "a b"}]}),
        ):
            async with session.post(f"{server.url}/v1/{path}", json=body) as response:
                answers.append([data async for data, _ in response.content.iter_chunks() if data])
        return answers

    for split in ("event", "coalesced", "bytes"):
        behaviour = Behaviour.model_validate(QUICK.model_dump() | {"split": split})
        with mock.running(behaviour, tmp_path) as server:
            streams[split] = in_session(pieces)
            truths[split] = server.truth()
        texts[split] = [
            [event | {"created": 0} for event in events(b"".join(answer))]
            for answer in streams[split]
        ]
    assert texts["event"] == texts["coalesced"] == texts["bytes"]
    due = [[truth.due_ttft_ms for truth in truths[split]] for split in truths]
    assert due[0] == due[1] == due[2]
    assert len(set(due[0])) == 2

    events_of_completion = 40 + 2
    assert [t.chunks for t in truths["event"]] == [events_of_completion, events_of_completion + 1]
    # The first token, 19 pairs, and the last token with the usage and the end.
    assert truths["coalesced"][0].chunks == 1 + 19 + 1
    assert truths["bytes"][0].chunks > 5 * events_of_completion
    joints = list(zip(streams["bytes"][0], streams["bytes"][0][1:], strict=False))
    assert any(after[0] & 0xC0 == 0x80 for _, after in joints), "no character was cut"
    assert any(before.endswith((b"d", b"da", b"dat", b"data")) for before, _ in joints)


def test_another_seed_other_times(tmp_path: Path) -> None:
    def due(seed: int) -> float:
        with mock.running(Behaviour(seed=seed, ttft_ms=1, ttft_sigma=1), tmp_path) as server:
            talk(server, {"prompt": "a", "max_tokens": 1})
            return server.truth()[0].due_ttft_ms

    assert due(1) != due(2)


def test_drawn_times_have_the_mean_asked_for() -> None:
    behaviour = Behaviour(ttft_ms=10, ttft_sigma=1, itl_ms=2, itl_sigma=0.5)
    plan = mock._Plan.draw(behaviour, mock.random.Random(0), 20_000)
    assert sum(plan.takes_ns[1:]) / 19_999 == pytest.approx(2e6, rel=0.02)


def test_counters_are_the_sum_of_usage(tmp_path: Path) -> None:
    with mock.running(Behaviour(block_size=4), tmp_path) as server:
        before = counters(server)
        assert before["prefix_cache_queries_total"] == before["num_preemptions_total"] == 0
        assert before["prefix_cache_hits_created"] == pytest.approx(time.time(), abs=60)
        ids = list(range(13))
        prompts = [ids, ids, ids[:12], [*ids[:6], 99, 98], ids[4:], "a b c d e", "a b c d f"]
        answers = talk(server, *({"prompt": p, "max_tokens": 1} | WITH_USAGE for p in prompts))
        usages = [events(answer)[-1]["usage"] for answer in answers]
        cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages]
        # The last token of a prompt is never cached.
        assert cached == [0, 12, 8, 4, 0, 0, 4]
        assert [truth.cached_tokens for truth in server.truth()] == cached
        after = counters(server)
        assert after["prefix_cache_hits_total"] == sum(cached)
        assert after["prefix_cache_queries_total"] == sum(u["prompt_tokens"] for u in usages)


def test_counters_that_miscount_and_restart(tmp_path: Path) -> None:
    with mock.running(Behaviour(miscount=5, restart_after=3), tmp_path) as server:
        request = {"prompt": "a b", "max_tokens": 1}
        talk(server, request, request)
        before = counters(server)
        assert before["prefix_cache_queries_total"] == 4
        assert before["prefix_cache_hits_total"] == 10
        talk(server, request)
        after = counters(server)
        assert after["prefix_cache_queries_total"] == after["prefix_cache_hits_total"] == 0
        assert after["prefix_cache_queries_created"] > before["prefix_cache_queries_created"]


def test_faults_of_streams(tmp_path: Path) -> None:
    behaviour = Behaviour(
        error_every=2, reset_every=3, truncate_every=5, empty_every=7, hang_every=11,
        stream_error_every=13, output_tokens=4,
    )  # fmt: skip
    streams: dict[int, bytes] = {}
    with mock.running(behaviour, tmp_path) as server:
        for number in range(1, 14):
            with raw(server, **WITH_USAGE) as connection:
                if number == 11:
                    until(connection, b"}\n\n")
                    connection.settimeout(0.3)
                    with pytest.raises(TimeoutError):
                        connection.recv(1)
                elif number % 2 and number % 3 == 0:
                    until(connection, b"}\n\n")
                    with pytest.raises(ConnectionResetError):
                        connection.recv(1 << 16)
                elif number % 2:
                    streams[number] = until(connection, b"\r\n0\r\n\r\n")
                else:
                    answer = until(connection, b"}}")
                    assert answer.startswith(b"HTTP/1.1 500")
                    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
                    assert (error["type"], error["code"]) == ("InternalServerError", 500)
    assert b"[DONE]" in streams[1]
    assert streams[1].count(b'"text"') == 4

    assert b"[DONE]" not in streams[5]
    assert b"usage" not in streams[5]
    assert streams[5].count(b"data: ") == 2
    assert streams[5].count(b"\n\n") == streams[1].count(b"\n\n") - 5

    assert b'"text":"","logprobs":null,"finish_reason":"stop"' in streams[7]
    assert b'"completion_tokens":0' in streams[7]
    assert b"[DONE]" in streams[7]

    assert b'data: {"error":{"message":' in streams[13]
    assert streams[13].count(b'"text"') == 1
    assert b"usage" not in streams[13]

    truths = sorted(server.truth(), key=lambda truth: truth.number)
    assert [truth.outcome for truth in truths] == [
        "ok", "error", "reset", "error", "truncate", "error", "empty", "error", "reset", "error",
        "hang", "error", "stream_error",
    ]  # fmt: skip
    tokens = {t.outcome: (t.output_tokens, t.first_token_ns is not None) for t in truths}
    assert tokens.pop("ok") == (4, True)
    assert tokens.pop("error") == tokens.pop("empty") == (0, False)
    assert set(tokens.values()) == {(1, True)}


def test_faults_of_whole_answers(tmp_path: Path) -> None:
    with mock.running(Behaviour(reset_every=2, empty_every=3), tmp_path) as server:
        with raw(server) as connection:
            assert b'"completion_tokens":16' in until(connection, b"}}")
        with raw(server) as connection, pytest.raises(ConnectionResetError):
            connection.recv(1)
        with raw(server) as connection:
            assert b'"completion_tokens":0' in until(connection, b"}}")
        assert [truth.outcome for truth in server.truth()] == ["ok", "reset", "empty"]


def test_dies_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    with mock.running(Behaviour(die_after=2), tmp_path) as server:
        talk(server, {"prompt": "a", "stream": True})
        with raw(server, stream=True) as connection:
            received = until(connection, b"}\n\n")
            assert connection.recv(1 << 16) in (b"", b"\r\n")
        assert b"[DONE]" not in received
        assert server.wait(10) == 3
        assert [truth.outcome for truth in server.truth()] == ["ok", "died"]


def test_workers_serve_in_order(tmp_path: Path) -> None:
    with mock.running(Behaviour(workers=2, ttft_ms=200), tmp_path) as server:
        request = {"prompt": "a", "max_tokens": 1, "stream": True}
        talk(server, *[request] * 6, together=True)
        truths = server.truth()
    assert [truth.number for truth in truths] == [1, 2, 3, 4, 5, 6]
    waits = [((t.first_token_ns or 0) - t.received_ns) / 1e6 for t in truths]
    assert waits == pytest.approx([200, 200, 400, 400, 600, 600], abs=90)
    assert {truth.due_ttft_ms for truth in truths} == {200}


def test_stands_still(tmp_path: Path) -> None:
    behaviour = Behaviour(stall_at_s=0.1, stall_s=0.4, itl_ms=20, output_tokens=10)
    times: dict[str, float] = {}

    async def run(session: aiohttp.ClientSession) -> None:
        async def call(name: str, wait_s: float, **body: Any) -> None:
            await asyncio.sleep(wait_s)
            method = "POST" if body else "GET"
            path = "v1/completions" if body else "health"
            async with session.request(method, f"{server.url}/{path}", json=body) as response:
                await response.read()
            times[name] = time.monotonic() - start

        start = time.monotonic()
        await asyncio.gather(
            call("in progress", 0, prompt="a", stream=True),
            call("pending", 0.2, prompt="a", stream=True, max_tokens=1),
            call("health", 0.25),
        )

    with mock.running(behaviour, tmp_path) as server:
        in_session(run)
        pending, in_progress = server.truth()
    # Never early; late as the machine will have it.
    assert 0.5 < times["pending"] < 0.7
    assert 0.5 < times["health"] < 0.7
    assert 9 * 0.02 + 0.4 < times["in progress"] < 0.8
    assert (pending.first_token_ns or 0) - pending.received_ns == pytest.approx(0.3e9, abs=0.1e9)
    assert (in_progress.end_ns or 0) - in_progress.received_ns >= 0.58e9


def test_health_while_it_starts(tmp_path: Path) -> None:
    with mock.running(Behaviour(slow_start_s=1), tmp_path) as server:
        url = f"{server.url}/health"
        assert get(url)[0] == 503
        time.sleep(1)
        assert get(url)[0] == 200
    with mock.running(Behaviour(never_healthy=True), tmp_path) as server:
        assert get(f"{server.url}/health")[0] == 503


def test_ends_on_a_signal_with_all_that_it_knows(tmp_path: Path) -> None:
    with mock.running(Behaviour(ttft_ms=60_000), tmp_path) as server:
        with raw(server, stream=True):
            pass
        with raw(server, stream=True) as connection:
            # The headers do not wait for a token.
            head = until(connection, b"\r\n\r\n")
            assert b"Transfer-Encoding: chunked" in head
            assert b"Content-Type: text/event-stream; charset=utf-8" in head
            os.kill(server.pid, signal.SIGTERM)
            assert server.wait(10) == 0
        # The first one's client had left, the second one's had not.
        assert {t.number: t.outcome for t in server.truth()} == {1: "closed", 2: "closed"}


def test_listens_on_loopback_only(quick: Mock) -> None:
    process = psutil.Process(quick.pid)
    (listening,) = [c for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening.laddr.ip == "127.0.0.1"
    assert quick.url == f"http://127.0.0.1:{listening.laddr.port}"
    assert quick.cpu_seconds() > 0


def test_may_open_as_many_files_as_the_system_allows(quick: Mock) -> None:
    soft, hard = psutil.Process(quick.pid).rlimit(psutil.RLIMIT_NOFILE)
    assert soft == hard


def test_processes_share_the_port_and_the_file_and_end_together(tmp_path: Path) -> None:
    request = {"prompt": "a b", "max_tokens": 2, "stream": True}
    with mock.running(Behaviour(), tmp_path, processes=3) as server:
        first = psutil.Process(server.pid)
        others = first.children()
        assert len(others) == 2
        # Each connection is a coin's toss; none of this is empty once in 10**13.
        for _ in range(8):
            talk(server, *[request] * 10, together=True)
        taken = [process.cpu_times().user for process in (first, *others)]
        assert server.cpu_seconds() >= sum(taken)
    truths = server.truth()
    assert [truth.outcome for truth in truths] == ["ok"] * 80
    # Each has numbers of its own.
    counts = [sum(truth.number == number for truth in truths) for number in range(1, 80)]
    assert counts[0] == 3
    assert sum(counts) == 80
    assert not any(psutil.pid_exists(process.pid) for process in (first, *others))


def test_processes_end_with_the_first_even_by_sigkill(tmp_path: Path) -> None:
    with mock.running(Behaviour(), tmp_path, processes=2) as server:
        (other,) = psutil.Process(server.pid).children()
        server.process.kill()
        wait_for(lambda: not is_running(other.pid))


def test_none_is_served_until_so_many_have_come(tmp_path: Path) -> None:
    request = {"prompt": "a b", "max_tokens": 2, "stream": True}
    with mock.running(Behaviour(together=5, ttft_ms=1), tmp_path) as server:
        talk(server, *[request] * 6, together=True)
        truths = server.truth()
    received = sorted(truth.received_ns for truth in truths)
    assert received[4] + 1_000_000 <= min(truth.first_token_ns or 0 for truth in truths)


def test_nothing_is_left_running_by_an_exception(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), mock.running(Behaviour(), tmp_path) as server:
        raise KeyboardInterrupt
    assert not psutil.pid_exists(server.pid)


def test_says_why_it_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "nonsense")
    with pytest.raises(HarnessError, match="PYTHONHASHSEED"), mock.running(Behaviour(), tmp_path):
        pass


def test_behaviour_is_checked() -> None:
    with pytest.raises(ValidationError, match="ttft"):
        Behaviour.model_validate({"ttft": 1})
    command = [sys.executable, "-m", "harness.bench.mock", '{"ttft": 1}', "--truth", "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
