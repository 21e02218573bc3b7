import asyncio
import json
import re
import socket
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from support.load import bodies, by_request, in_order, one_by_one, stand, with_client
from support.scripted import CASES, scripted

from harness.bench.mock import Behaviour
from harness.cell import Batch, BatchHTTP, ClosedLoop, OpenLoop
from harness.engines.server import READY_SECONDS
from harness.load.client import (
    CONNECT_SECONDS,
    SILENCE_SECONDS,
    Client,
    Outcome,
    body,
    connect,
    headers,
)
from harness.load.stream import Status, Usage
from harness.measure import validity


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_usage_and_times(tmp_path: Path) -> None:
    with stand(Behaviour(ttft_ms=30, itl_ms=2), tmp_path) as server:
        outcomes = one_by_one(server.url, 6)
        truth = by_request(server.mock.truth())
    assert [outcome.status for outcome in outcomes] == ["ok"] * 6
    assert [outcome.error for outcome in outcomes] == [None] * 6
    for request, outcome in enumerate(outcomes):
        # The first block is that of the request before the last.
        cached = 16 if request > 1 else 0
        assert outcome.usage == Usage(prompt_tokens=40, cached_tokens=cached, output_tokens=2)
        assert in_order(outcome)
        told = truth[request]
        assert outcome.sent_ns is not None
        assert outcome.end_ns is not None
        assert outcome.sent_ns < told.received_ns
        assert told.end_ns is not None
        # The server's write returns before or after the client has read what it wrote.
        assert outcome.end_ns > told.received_ns + 30_000_000


def test_server_is_asked_to_count_along_and_not_to_compress() -> None:
    asked = body("m", range(5), 3)
    sent = json.loads(asked.content)
    assert (sent["prompt"], sent["max_tokens"], sent["ignore_eos"]) == ([0, 1, 2, 3, 4], 3, True)
    assert (asked.prompt_tokens, asked.output_tokens) == (5, 3)
    # Only with the first does vLLM heed the second.
    assert sent["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert headers(1)["Accept-Encoding"] == "identity"


def test_first_token_is_seen_when_it_is_sent(tmp_path: Path) -> None:
    """Neither the head, which comes at once, nor the second token, which comes much later."""
    with stand(Behaviour(ttft_ms=60, itl_ms=60), tmp_path) as server:
        outcomes = one_by_one(server.url, 8)
        truth = by_request(server.mock.truth())
    late_ms = []
    for request, outcome in enumerate(outcomes):
        assert outcome.first_token_ns is not None
        assert outcome.end_ns is not None
        late_ms.append((outcome.first_token_ns - (truth[request].first_token_ns or 0)) / 1e6)
        assert outcome.end_ns - outcome.first_token_ns > 40e6
    assert min(late_ms) > 0
    assert np.median(late_ms) < 15


@pytest.mark.parametrize("split", ["coalesced", "bytes"])
def test_cuts_make_no_difference(tmp_path: Path, split: str) -> None:
    behaviour = Behaviour.model_validate({"ttft_ms": 5, "itl_ms": 1, "split": split, "seed": 3})
    with stand(behaviour, tmp_path) as server:

        async def run(client: Client) -> list[Outcome]:
            return [await client.complete(i, c) for i, c in enumerate(bodies(4, output_tokens=9))]

        outcomes = with_client(server.url, run)
        truth = by_request(server.mock.truth())
    assert [outcome.status for outcome in outcomes] == ["ok"] * 4
    for request, outcome in enumerate(outcomes):
        assert outcome.usage == Usage(40, 16 if request > 1 else 0, 9)
        assert outcome.first_token_ns is not None
        assert abs(outcome.first_token_ns - (truth[request].first_token_ns or 0)) < 200e6


def test_every_fault_of_the_mock_has_its_name(tmp_path: Path) -> None:
    behaviour = Behaviour(
        error_every=3,
        reset_every=4,
        truncate_every=5,
        empty_every=7,
        stream_error_every=11,
        hang_every=13,
        ttft_ms=2,
        itl_ms=1,
    )
    names = {
        "ok": "ok",
        "error": "http-error",
        "reset": "reset",
        "truncate": "truncated",
        "empty": "no-token",
        "hang": "stalled",
        "stream_error": "stream-error",
    }
    with stand(behaviour, tmp_path) as server:
        outcomes = one_by_one(server.url, 14, silence_seconds=0.8)
        truth = by_request(server.mock.truth())
    due = [behaviour.outcome(number) for number in range(1, 15)]
    assert set(due) == set(names)
    assert [outcome.status for outcome in outcomes] == [names[outcome] for outcome in due]
    assert len(truth) == 14
    for outcome in outcomes:
        assert in_order(outcome)
        assert (outcome.error is None) == (outcome.status == "ok")
        assert (outcome.usage is None) == (outcome.status != "ok")
        # What was received before a reset, but not read, is lost.
        if outcome.status != "reset":
            assert (outcome.first_token_ns is None) == (
                outcome.status in ("http-error", "no-token")
            )


def test_every_tenth_request_gets_a_500(tmp_path: Path) -> None:
    with stand(Behaviour(error_every=10), tmp_path) as server:
        outcomes = one_by_one(server.url, 30)
        assert len(server.mock.truth()) == 30
    failed = [i for i, outcome in enumerate(outcomes) if outcome.status != "ok"]
    assert failed == [9, 19, 29]
    assert outcomes[9].status == "http-error"
    assert "HTTP 500" in (outcomes[9].error or "")
    assert "Internal server error" in (outcomes[9].error or "")


def test_whatever_a_server_does_has_a_name_and_is_sent_once() -> None:
    names = list(CASES)

    async def run(client: Client) -> list[Outcome]:
        contents = bodies(len(names))
        return await asyncio.gather(*(client.complete(i, c) for i, c in enumerate(contents)))

    with scripted({i: CASES[name][1] for i, name in enumerate(names)}) as server:
        outcomes = with_client(server.url, run, silence_seconds=1.0)
    found = dict(zip(names, (outcome.status for outcome in outcomes), strict=True))
    assert found == {name: status for name, (status, _) in CASES.items()}
    assert set(server.came.values()) == {1}
    for outcome in outcomes:
        assert in_order(outcome)
        assert "\n" not in (outcome.error or "")


def test_nobody_listens() -> None:
    (outcome,) = one_by_one(f"http://127.0.0.1:{_free_port()}", 1)
    assert outcome.status == "refused"
    assert outcome.sent_ns is not None
    assert outcome.end_ns is not None
    assert (outcome.first_byte_ns, outcome.first_token_ns, outcome.usage) == (None, None, None)


def test_server_that_dies_resets_and_then_refuses(tmp_path: Path) -> None:
    with stand(Behaviour(die_after=2), tmp_path) as server:
        outcomes = one_by_one(server.url, 2)
        server.mock.wait(10)
        outcomes += one_by_one(server.url, 1)
    assert [outcome.status for outcome in outcomes] == ["ok", "reset", "refused"]


def test_silence_is_counted_from_the_last_byte(tmp_path: Path) -> None:
    """An answer may take longer than any silence, and a silence ends it soon."""
    with stand(Behaviour(itl_ms=300, hang_every=2), tmp_path) as server:

        async def run(client: Client) -> list[Outcome]:
            return [await client.complete(i, c) for i, c in enumerate(bodies(2, output_tokens=8))]

        start = time.monotonic()
        whole, hanging = with_client(server.url, run, silence_seconds=1.0)
        took = time.monotonic() - start
    assert (whole.status, hanging.status) == ("ok", "stalled")
    assert took < 2.1 + 1.0 + 3


def test_slow_start_is_not_the_clients_business(tmp_path: Path) -> None:
    with stand(Behaviour(slow_start_s=30), tmp_path) as server:
        assert [outcome.status for outcome in one_by_one(server.url, 2)] == ["ok", "ok"]


def test_proxies_of_the_environment_are_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{_free_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with stand(Behaviour(), tmp_path) as server:
        assert [outcome.status for outcome in one_by_one(server.url, 2)] == ["ok", "ok"]


def test_connections_are_used_again_but_not_when_they_may_be_closing() -> None:
    script = dict.fromkeys(range(4), CASES["whole"][1])
    with scripted(script) as server:

        async def run() -> list[str]:
            async with connect(server.url) as client:
                statuses = []
                for i, content in enumerate(bodies(4)):
                    if i == 3:
                        await asyncio.sleep(2.5)
                    statuses.append((await client.complete(i, content)).status)
                return statuses

        assert asyncio.run(run()) == ["ok"] * 4
    assert server.connections == 2


def test_readme_has_every_status_key_option_and_limit(root: Path) -> None:
    folder = root / "harness" / "load"
    readme = (folder / "README.md").read_text()
    loads = (Batch, BatchHTTP, OpenLoop, ClosedLoop)
    keys = {f"{key}: " for load in loads for key in load.model_fields}
    locustfile = (folder / "locustfile.py").read_text()
    options = re.findall(r'add_argument\(\s*"(--[a-z-]+)"', locustfile)
    assert len(options) == 7
    limits = [
        f"{SILENCE_SECONDS:g} s",
        f"{CONNECT_SECONDS:g} s",
        f"after {READY_SECONDS:g} s",
        f"{validity.MAX_DISPATCH_P99_MS:g} ms",
        f"{validity.MAX_CLIENT_CORES:g} of a core",
    ]
    statuses = [f"`{status}`" for status in get_args(Status)]
    missing = [word for word in (*statuses, *keys, *options, *limits) if word not in readme]
    assert missing == []
