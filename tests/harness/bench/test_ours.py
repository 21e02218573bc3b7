import pytest

from harness.bench import ours
from harness.bench.mock import Behaviour, Truth
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
        x_request_id=ours.request_id(request),
        received_ns=received_ms * _MS,
        prompt=f"prompt {request}",
        first_token_ns=None if ttft_ms is None else (received_ms + ttft_ms) * _MS,
        end_ns=end_ms * _MS,
        output_tokens=tokens,
        outcome=outcome,  # type: ignore[arg-type]
    )


def ok(tokens: int = 2) -> Outcome:
    return Outcome("ok", usage=Usage(prompt_tokens=5, cached_tokens=0, output_tokens=tokens))


def test_error_is_the_distance_from_the_truth() -> None:
    true = ours.by_name([truth(0), truth(1, received_ms=7), truth(2)], lambda row: row.prompt)
    # One of them was never reported.
    found = ours.errors_ms({"prompt 1": 49.5, "prompt 0": 51.25}, true)
    assert found == [pytest.approx(0.5), pytest.approx(1.25)]


@pytest.mark.parametrize("name", ["prompt 0", "prompt 1"])
def test_ttft_of_what_was_never_answered_is_an_error(name: str) -> None:
    true = ours.by_name([truth(0, ttft_ms=None)], lambda row: row.prompt)
    with pytest.raises(HarnessError, match=f"reported of '{name}', which the server never answer"):
        ours.errors_ms({name: 1.0}, true)


def test_truth_of_a_request_that_was_sent_twice_is_ambiguous() -> None:
    with pytest.raises(HarnessError, match="'request-3' was sent twice"):
        ours.by_name([truth(3), truth(4), truth(3)], lambda row: row.x_request_id)


def test_quantiles() -> None:
    assert ours.quantiles([float(value) for value in range(101)][::-1]) == (50.0, 99.0)


def test_most_open() -> None:
    assert ours.most_open([]) == 0
    spans = [(0, 10), (5, 20), (6, 7), (10, 30), (30, 40)]
    rows = [truth(i, received_ms=start, end_ms=end) for i, (start, end) in enumerate(spans)]
    # One that comes as another ends is not open with it.
    assert ours.most_open(rows) == ours.most_open(rows[::-1]) == 3
    assert ours.most_open(rows[3:]) == 1


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
    assert ours.miscounted(outcomes, truths) == lost_and_twice


@pytest.mark.parametrize(
    "load",
    [
        OpenLoop(mode="open-loop", arrivals="constant", request_rate=100),
        ClosedLoop(mode="closed-loop", users=2, think_time_mean=0.01),
    ],
)
def test_our_client_says_what_it_saw_and_the_mock_what_it_did(load: OpenLoop | ClosedLoop) -> None:
    reply = ours.exchange(Behaviour(ttft_ms=20, itl_ms=2), load, requests=8, output_tokens=3)
    outcomes = [outcome for _, outcome in reply.sent]
    assert ours.miscounted(outcomes, reply.truth) == (0, 0)
    assert [scheduled_ns is None for scheduled_ns, _ in reply.sent] == [
        load.mode != "open-loop"
    ] * 8
    true = ours.by_name(reply.truth, lambda row: row.x_request_id)
    for request, outcome in enumerate(outcomes):
        served = true[ours.request_id(request)]
        assert outcome.sent_ns is not None
        assert outcome.first_token_ns is not None
        assert served.first_token_ns is not None
        assert outcome.sent_ns < served.received_ns
        assert served.first_token_ns < outcome.first_token_ns
        assert served.output_tokens == 3
        assert (outcome.first_token_ns - outcome.sent_ns) / 1e6 >= 20
    assert reply.cost.cpu_seconds > 0
    # The imports alone take that long.
    assert reply.cpu_seconds > 0.1


def test_our_client_that_fails_shows_its_last_lines() -> None:
    load = OpenLoop(mode="open-loop", arrivals="trace")
    with pytest.raises(HarnessError, match=r"^our client: exit code 1:\n(.*\n)*.*no arrival times"):
        ours.exchange(Behaviour(), load, requests=2, output_tokens=1)
