import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.load import Stand, by_request, in_order, left_over, prompts, stand, workload
from support.processes import wait_for

from harness.bench.mock import Behaviour
from harness.bench.ours import Order
from harness.cell import OpenLoop
from harness.disturbance import Watch
from harness.errors import HarnessError
from harness.load import senders, sending
from harness.load.client import ClientLoad, Outcome, from_record, record
from harness.load.senders import Senders
from harness.load.stream import Usage
from harness.turns import Turns

_MS = 1_000_000


def _drive(
    server: Stand,
    folder: Path,
    requests: int,
    rate: float,
    turn_requests: int | None = None,
    watch: Watch | None = None,
) -> tuple[list[tuple[int | None, Outcome]], ClientLoad, int]:
    """Return scheduled times and outcomes, what it cost, and how often an answer was reported."""
    load = OpenLoop(
        mode="open-loop",
        arrivals="constant",
        request_rate=rate,
        turn_requests=turn_requests,
        processes=2,
    )
    answers = []
    sent, cost = sending.drive(
        load,
        workload(requests),
        prompts(requests),
        1,
        server,
        folder,
        Turns.alone(),
        watch or Watch(),
        lambda: answers.append(1),
    )
    assert left_over(str(folder / "sender-")) == []
    return sent, cost, len(answers)


def test_each_sends_its_share_at_its_time_turn_by_turn(tmp_path: Path) -> None:
    watch = Watch(os.getpid())
    with stand(Behaviour(ttft_ms=20), tmp_path / "mock") as server:
        sent, cost, answers = _drive(server, tmp_path, 10, 50.0, turn_requests=3, watch=watch)
        truth = by_request(server.mock.truth())
    assert answers == 10
    assert [outcome.status for _, outcome in sent] == ["ok"] * 10
    scheduled = [scheduled_ns or 0 for scheduled_ns, _ in sent]
    assert [due - scheduled[0] for due in scheduled] == [20 * _MS * i for i in range(10)]
    assert all(in_order(outcome, scheduled_ns) for scheduled_ns, outcome in sent)
    for request, (_, outcome) in enumerate(sent):
        assert outcome.usage is not None
        assert outcome.usage.cached_tokens == truth[request].cached_tokens
    # To the last answer, whoever had it. In the last turn one process has nothing to send.
    for first, following in pairwise((range(3), range(3, 6), range(6, 9), range(9, 10))):
        last_ns = max(truth[request].end_ns or 0 for request in first)
        assert last_ns < min(truth[request].received_ns for request in following)
    assert [turn.first_request for turn in watch.turns] == [0, 3, 6, 9]
    assert cost.processes == 2
    assert 0 < cost.cpu_seconds < 2 * cost.seconds
    shares = [
        [json.loads(line)[0] for line in (tmp_path / f"sender-{i}.jsonl").read_text().splitlines()]
        for i in range(2)
    ]
    assert shares == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]


def test_process_that_is_killed_is_an_error_and_nothing_is_left(tmp_path: Path) -> None:
    said: list[str] = []

    def run() -> None:
        with pytest.raises(HarnessError) as error:
            _drive(server, tmp_path, 2000, 100.0)
        said.append(str(error.value))

    with stand(Behaviour(), tmp_path / "mock") as server:
        thread = threading.Thread(target=run)
        thread.start()
        wait_for(lambda: len(server.mock.truth()) > 4)
        (victim,) = [
            process
            for process in psutil.Process().children()
            if str(tmp_path / "sender-1") in " ".join(process.cmdline())
        ]
        victim.kill()
        thread.join(30)
        assert not thread.is_alive()
    assert said == ["process 2 of the client's 2 was killed by SIGKILL"]
    assert left_over(str(tmp_path / "sender-")) == []


def test_process_that_raises_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(senders, "_write", lambda path, *_: path.write_text("[0]\n"))
    with (
        stand(Behaviour(), tmp_path / "mock") as server,
        pytest.raises(HarnessError, match=r"^process 1 of the client's 2 died with exit code 1$"),
    ):
        _drive(server, tmp_path, 4, 50.0)
    assert "ValueError: not enough values" in capfd.readouterr().err
    assert left_over(str(tmp_path / "sender-")) == []


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_who_started_them(tmp_path: Path, end: signal.Signals) -> None:
    order = Order(
        behaviour=Behaviour(ttft_ms=200),
        load=OpenLoop(mode="open-loop", request_rate=50.0, processes=2),
        requests=2000,
        output_tokens=2,
        folder=tmp_path,
        reply=tmp_path / "reply.json",
    )
    command = [sys.executable, "-m", "harness.bench.ours", order.model_dump_json()]
    truth = tmp_path / "truth.jsonl"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            wait_for(lambda: truth.exists() and truth.read_bytes().count(b"\n") > 4)
            assert len(left_over(str(tmp_path / "sender-"))) == 2
            process.send_signal(end)
            process.wait(20)
            wait_for(lambda: left_over(str(tmp_path / "sender-")) == [])
        finally:
            # The mock too, which is left by SIGKILL.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


class _Process:
    """Stands in for one that says such lines."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.stdin = self
        self.stdout = asyncio.StreamReader()
        self.stdout.feed_data(b"".join(json.dumps(row).encode() + b"\n" for row in rows))

    def write(self, _: bytes) -> None:
        """Do nothing."""


@pytest.mark.parametrize("request_", [2, 1, 6])
def test_record_of_what_was_not_to_be_sent_is_an_error(request_: int) -> None:
    """Sent twice, by another process's share, or in another turn."""
    ok = Outcome("ok")

    async def send() -> None:
        mine = _Process(record(2, ok), record(request_, ok), record(4, ok))
        other = _Process(record(1, ok), record(3, ok), record(5, ok))
        await Senders([mine, other], lambda: None).send(range(1, 6), 0)  # type: ignore[list-item]

    with pytest.raises(HarnessError, match=f"^request {request_} has two records: it was sent tw"):
        asyncio.run(send())


@pytest.mark.parametrize(
    "outcome", [Outcome("ok", None, 1, 2, 3, 4, Usage(5, 6, 7)), Outcome("reset", "é", 1)]
)
def test_record_says_all_there_is(outcome: Outcome) -> None:
    assert from_record(json.loads(json.dumps(record(9, outcome)))) == (9, outcome)
