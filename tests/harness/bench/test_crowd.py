from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from harness.bench import crowd, ours
from harness.bench.mock import Behaviour, Truth
from harness.bench.ours import Reply
from harness.cell import ClosedLoop, OpenLoop
from harness.errors import HarnessError
from harness.load.client import ClientLoad, Outcome
from harness.load.stream import Usage

_MS = 1_000_000


def _reply(
    requests: int, tokens: int, errors_ms: list[float], open_at_a_time: int, processes: int
) -> Reply:
    """Return a run in which each token costs 20 us, each TTFT is so far off, and one was sent
    twice.
    """
    sent: list[tuple[int | None, Outcome]] = []
    truth = []
    for i in range(requests):
        start_ns, end_ns = i * _MS, (i + open_at_a_time) * _MS
        error_ns = round(errors_ms[i % len(errors_ms)] * _MS)
        usage = Usage(prompt_tokens=5, cached_tokens=0, output_tokens=tokens)
        sent.append(
            (None, Outcome("ok", None, start_ns, 0, start_ns + 50 * _MS + error_ns, end_ns, usage))
        )
        told: dict[str, Any] = {"x_request_id": ours.request_id(i), "output_tokens": tokens}
        told |= {"received_ns": start_ns, "first_token_ns": start_ns + 50 * _MS}
        truth.append(Truth(number=i + 1, end_ns=end_ns, outcome="ok", **told))
    cost = ClientLoad(requests * tokens * 20e-6, 10.0, processes)
    return Reply(sent=sent, cost=cost, cpu_seconds=1.0, truth=truth)


def test_errors_of_the_half_that_was_sent_later() -> None:
    reply = _reply(4, 2, [1, 2, 3, 4], 2, 1)
    assert crowd.later_errors_ms(reply) == [pytest.approx(3), pytest.approx(4)]
    # Whatever their numbers.
    first, *others = reply.sent
    outcome = first[1].moved(100 * _MS)
    truth = reply.truth[0]
    truth.received_ns += 100 * _MS
    truth.first_token_ns = truth.received_ns + 50 * _MS
    moved = reply.model_copy(update={"sent": [(None, outcome), *others]})
    assert crowd.later_errors_ms(moved) == [pytest.approx(4), pytest.approx(1)]


class _Exchange:
    """Stands in for ``ours.started``: all loops and numbers of processes are equal."""

    def __init__(self, open_share: float = 1.0) -> None:
        self.open_share = open_share
        self.asked: list[tuple[Behaviour, OpenLoop | ClosedLoop, int, int]] = []

    def started(self, *order: Any) -> AbstractContextManager[Callable[[], Reply]]:
        return nullcontext(lambda: self(*order))

    def __call__(
        self,
        behaviour: Behaviour,
        load: OpenLoop | ClosedLoop,
        requests: int,
        output_tokens: int,
        servers: int,
    ) -> Reply:
        assert servers == 2
        self.asked.append((behaviour, load, requests, output_tokens))
        stream_s = (behaviour.ttft_ms + behaviour.itl_ms * (output_tokens - 1)) / 1000
        streams = round(200 * stream_s)
        errors = [2.0] if streams == 100 else [3.0]
        open_at_a_time = round(self.open_share * streams)
        return _reply(requests, output_tokens, errors, open_at_a_time, load.processes)


def test_rows_say_what_many_streams_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = _Exchange()
    monkeypatch.setattr(ours, "started", exchange.started)
    rows = {row.name: row for row in crowd._streams()}
    assert rows["open loop of 2, 2000 / 100 streams: TTFT error p50"].value == pytest.approx(1.5)
    assert rows["closed loop of 1, 100 streams: TTFT error p99"].value == pytest.approx(2)
    assert rows["closed loop of 2, 2000 streams: requests lost"].ok
    assert rows["closed loop of 2, 2000 streams: sent twice"].ok
    # As many requests and tokens a second, of however many streams.
    rates = {load.request_rate for _, load, _, _ in exchange.asked if load.mode == "open-loop"}
    assert rates == {200}
    for behaviour, load, requests, tokens in exchange.asked:
        stream_s = (behaviour.ttft_ms + behaviour.itl_ms * (tokens - 1)) / 1000
        if isinstance(load, ClosedLoop):
            assert load.users / (stream_s + load.think_time_mean) == pytest.approx(200, rel=0.01)
            assert requests >= 2 * load.users
        else:
            assert requests / 2 >= 200 * stream_s


def test_too_few_streams_at_a_time_are_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "started", _Exchange(open_share=0.8).started)
    with pytest.raises(HarnessError, match="no more than 80 of 100 streams were open at a time"):
        crowd._streams()


def test_rows_say_how_many_tokens_a_process_is_good_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "exchange", _Exchange())
    rows = {row.name: row.value for row in crowd._tokens()}
    for loop in ("open", "closed"):
        for processes in (1, 2):
            what = f"{loop} loop of {processes}, 6400 tokens/s"
            # 800 requests of 64 tokens of 20 us in 10 s.
            assert rows[f"{what}: CPU of each"] == pytest.approx(0.1024 / processes)
            # A process may be at 0.8 of a core.
            assert rows[f"{what}: each good for"] == pytest.approx(40_000)
