from pathlib import Path

import pytest

from harness.bench import client
from harness.bench.client import OURS, Errors
from harness.bench.mock import Behaviour, Truth
from harness.bench.peers import Load as PeerLoad
from harness.bench.peers import Peer, PeerRun
from harness.bench.results import Result
from harness.cell import ClosedLoop, OpenLoop
from harness.errors import HarnessError
from harness.load.client import Outcome
from harness.load.stream import Usage

_MS = 1_000_000


def truth(
    request: int,
    received_ms: int = 0,
    ttft_ms: int | None = 50,
    end_ms: int = 100,
    tokens: int = 2,
    outcome: str = "ok",
) -> Truth:
    return Truth(
        number=request + 1,
        x_request_id=client.request_id(request),
        received_ns=received_ms * _MS,
        prompt=f"prompt {request}",
        first_token_ns=None if ttft_ms is None else (received_ms + ttft_ms) * _MS,
        end_ns=end_ms * _MS,
        output_tokens=tokens,
        outcome=outcome,  # type: ignore[arg-type]
    )


def ok(tokens: int = 2) -> Outcome:
    return Outcome("ok", usage=Usage(prompt_tokens=5, cached_tokens=0, output_tokens=tokens))


def by_name(found: list[Result]) -> dict[str, Result]:
    names = [result.name for result in found]
    assert len(set(names)) == len(names)
    return {result.name: result for result in found}


def test_results_are_medians_over_rounds_of_one_rate() -> None:
    found = {
        (OURS, 100): [Errors(0.5, p99, cpu, p99 + 1) for p99, cpu in ((9, 3), (1, 5), (1.5, 4))],
        (OURS, 400): [Errors(70, 80, 90, 100)],
        ("slow", 100): [Errors(2, 8, 20), Errors(4, 6, 10), Errors(3, 7, 30)],
        ("quick", 100): [Errors(1, 3, 15)],
        ("slow", 400): [Errors(70, 80, 90)],
    }
    rows = client.compared(found, 100, target_ms=2)
    values = {(result.name, result.value, result.unit, result.target) for result in rows}
    assert values == {
        ("ours: TTFT error at 100/s, p50", 0.5, "ms", None),
        ("ours: TTFT error at 100/s, p99", 1.5, "ms", 2),
        ("ours: TTFT error at 100/s, p99, from scheduled", 2.5, "ms", 2),
        ("ours: CPU at 100/s, start included", 4, "s", None),
        ("slow: TTFT error at 100/s, p50", 3, "ms", None),
        ("slow: TTFT error at 100/s, p99", 7, "ms", None),
        ("slow: CPU at 100/s, start included", 20, "s", None),
        ("quick: TTFT error at 100/s, p50", 1, "ms", None),
        ("quick: TTFT error at 100/s, p99", 3, "ms", None),
        ("quick: CPU at 100/s, start included", 15, "s", None),
        ("ours: TTFT error p99 at 100/s, ours / best peer (quick)", 0.5, "ratio", 1),
    }


def test_without_other_tools_there_is_no_ratio() -> None:
    rows = client.compared({(OURS, 100): [Errors(1, 2, 3, 4)]}, 100, target_ms=2)
    assert {result.unit for result in rows} == {"ms", "s"}


def test_error_is_the_distance_from_the_truth() -> None:
    true = client.by_name([truth(0), truth(1, received_ms=7), truth(2)], lambda row: row.prompt)
    # One of them was never reported.
    found = client.errors_ms({"prompt 1": 49.5, "prompt 0": 51.25}, true)
    assert found == [pytest.approx(0.5), pytest.approx(1.25)]


@pytest.mark.parametrize("name", ["prompt 0", "prompt 1"])
def test_ttft_of_what_was_never_answered_is_an_error(name: str) -> None:
    true = client.by_name([truth(0, ttft_ms=None)], lambda row: row.prompt)
    with pytest.raises(HarnessError, match=f"reported of '{name}', which the server never answer"):
        client.errors_ms({name: 1.0}, true)


def test_truth_of_a_request_that_was_sent_twice_is_ambiguous() -> None:
    with pytest.raises(HarnessError, match="'request-3' was sent twice"):
        client.by_name([truth(3), truth(4), truth(3)], lambda row: row.x_request_id)


def test_quantiles() -> None:
    assert client.quantiles([float(value) for value in range(101)][::-1]) == (50.0, 99.0)


@pytest.mark.parametrize(
    ("p", "share", "expected"),
    [
        # All wait: evenly between nothing and all of it.
        (0.5, 1.0, 2500),
        (0.99, 1 / 12, 4400),
        (0.999, 1 / 12, 4940),
        (0.9, 0.2, 2500),
        # No more than one in a hundred meets it.
        (0.99, 0.01, 0),
        (0.9, 0.01, 0),
    ],
)
def test_quantiles_of_a_stall(p: float, share: float, expected: float) -> None:
    assert client.stalled_ms(p, share, 5.0) == pytest.approx(expected, abs=1e-6)


def test_most_open() -> None:
    assert client.most_open([]) == 0
    spans = [(0, 10), (5, 20), (6, 7), (10, 30), (30, 40)]
    rows = [truth(i, received_ms=start, end_ms=end) for i, (start, end) in enumerate(spans)]
    # One that comes as another ends is not open with it.
    assert client.most_open(rows) == client.most_open(rows[::-1]) == 3
    assert client.most_open(rows[3:]) == 1


@pytest.mark.parametrize(
    ("outcomes", "truths", "lost_and_twice"),
    [
        ([ok(), ok()], [truth(1), truth(0)], (0, 0)),
        ([ok(), ok()], [truth(0), truth(0), truth(1)], (0, 1)),
        ([ok(), ok()], [truth(0)] * 3, (1, 2)),
        ([ok(), ok()], [], (2, 0)),
        ([ok(3)], [truth(0)], (1, 0)),
        ([Outcome("reset")], [truth(0)], (1, 0)),
        ([Outcome("dropped")], [], (1, 0)),
        ([ok()], [truth(0, outcome="closed")], (1, 0)),
        ([ok()], [truth(0, outcome="reset"), truth(0)], (0, 1)),
        # Nobody is known to have sent it.
        ([ok()], [truth(0), truth(7)], (0, 0)),
    ],
)
def test_miscounted(
    outcomes: list[Outcome], truths: list[Truth], lost_and_twice: tuple[int, int]
) -> None:
    assert client.miscounted(outcomes, truths) == lost_and_twice


@pytest.mark.parametrize(
    "load",
    [
        OpenLoop(mode="open-loop", arrivals="constant", request_rate=100),
        ClosedLoop(mode="closed-loop", users=2, think_time_mean=0.01),
    ],
)
def test_our_client_says_what_it_saw_and_the_mock_what_it_did(load: OpenLoop | ClosedLoop) -> None:
    reply = client._exchange(Behaviour(ttft_ms=20, itl_ms=2), load, requests=8, output_tokens=3)
    outcomes = [outcome for _, outcome in reply.sent]
    assert client.miscounted(outcomes, reply.truth) == (0, 0)
    assert [scheduled_ns is None for scheduled_ns, _ in reply.sent] == [
        load.mode != "open-loop"
    ] * 8
    true = client.by_name(reply.truth, lambda row: row.x_request_id)
    for request, outcome in enumerate(outcomes):
        served = true[client.request_id(request)]
        assert outcome.sent_ns is not None
        assert outcome.first_token_ns is not None
        assert served.first_token_ns is not None
        assert outcome.sent_ns < served.received_ns
        assert served.first_token_ns < outcome.first_token_ns
        assert served.output_tokens == 3
    assert 20 <= min(client._ttft_ms(reply)) < 1000
    assert reply.cost.cpu_seconds > 0
    # The imports alone take that long.
    assert reply.cpu_seconds > 0.1


def test_our_client_that_fails_shows_its_last_lines() -> None:
    load = OpenLoop(mode="open-loop", arrivals="trace")
    with pytest.raises(HarnessError, match=r"^our client: exit code 1:\n(.*\n)*.*no arrival times"):
        client._exchange(Behaviour(), load, requests=2, output_tokens=1)


def test_requests_that_fail_are_no_measurement() -> None:
    load = OpenLoop(mode="open-loop", arrivals="constant", request_rate=100)
    reply = client._exchange(Behaviour(error_every=2), load, requests=4, output_tokens=1)
    with pytest.raises(HarnessError, match=r"not all .* well: \{'ok': 2, 'http-error': 2\}"):
        client._ttft_ms(reply)


class _Tool(Peer):
    name = "tool"

    def command(self, load: PeerLoad, folder: Path) -> list[str]:
        raise NotImplementedError

    def ttft_ms(self, load: PeerLoad, folder: Path) -> dict[str, float]:
        raise NotImplementedError


def test_tool_that_fails_in_any_round_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def run(tool: Peer, *_: object) -> PeerRun:
        calls.append(tool.name)
        if len(calls) == 2:
            raise HarnessError("tool: exit code 1")
        return PeerRun({}, 0.0)

    monkeypatch.setattr(client, "_errors_of_ours", lambda _: Errors(1, 2, 3, 4))
    monkeypatch.setattr(client, "_errors_of_rival", run)
    rows = by_name(client._compare([_Tool()], tmp_path, tmp_path))
    assert len(calls) == 2
    assert "warning: left out: tool: exit code 1" in capsys.readouterr().err
    assert not any("tool" in name for name in rows)
    assert rows["ours: TTFT error at 400/s, p99"].value == 2
