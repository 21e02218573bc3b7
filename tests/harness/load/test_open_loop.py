import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
from support.load import Stand, bodies, by_request, in_order, stand, with_client

from harness.bench.mock import Behaviour
from harness.disturbance import Watch
from harness.load import open_loop
from harness.load.client import Client, Outcome
from harness.load.open_loop import Due
from harness.turns import Turns, places

_MS = 1_000_000
_NOTHING = Watch()


def _drive(
    server: Stand,
    offsets_ms: Sequence[float],
    max_streams: int = 1000,
    turns: Turns | None = None,
    turn_requests: int | None = None,
    watch: Watch = _NOTHING,
) -> tuple[list[tuple[int, Outcome]], int]:
    """Return scheduled times and outcomes, and how often an answer was reported."""
    answers = []
    offsets_ns = [round(offset * _MS) for offset in offsets_ms]

    contents = bodies(len(offsets_ns))

    async def run(client: Client) -> list[tuple[int, Outcome]]:
        async def send(part: range, begin_ns: int) -> list[Outcome]:
            due = [Due(i, contents[i], begin_ns + offsets_ns[i]) for i in part]
            return await open_loop.send(
                client, due, max_streams, lambda request, _: answers.append(request)
            )

        return await open_loop.drive(send, offsets_ns, turns or Turns.alone(), watch, turn_requests)

    sent = with_client(server.url, run)
    assert sorted(answers) == list(range(len(sent)))
    return sent, len(answers)


def test_server_that_stands_still_does_not_slow_sending(tmp_path: Path) -> None:
    offsets_ms = [10.0 * i for i in range(100)]
    with stand(Behaviour(stall_at_s=0.2, stall_s=1.5), tmp_path) as server:
        sent, answers = _drive(server, offsets_ms)
        truth = by_request(server.mock.truth())
    assert answers == 100
    scheduled = np.array([scheduled_ns for scheduled_ns, _ in sent])
    assert ((scheduled - scheduled[0]) / _MS == offsets_ms).all()
    assert [outcome.status for _, outcome in sent] == ["ok"] * 100
    assert all(in_order(outcome, scheduled_ns) for scheduled_ns, outcome in sent)
    late_ms = [(truth[i].received_ns - scheduled[i]) / _MS for i in range(100)]
    assert min(late_ms) > 0
    assert np.median(late_ms) < 50
    # The last was due 0.7 s before the server went on.
    assert max(late_ms) < 600
    first_ms = [((o.first_token_ns or 0) - scheduled_ns) / _MS for scheduled_ns, o in sent]
    assert min(first_ms[50:]) > 700
    assert first_ms[50] > first_ms[99]


def test_server_with_one_worker_gets_them_on_time_too(tmp_path: Path) -> None:
    """The requests wait for each other at the server, and this shows in their TTFT."""
    with stand(Behaviour(ttft_ms=100, workers=1), tmp_path) as server:
        sent, _ = _drive(server, [10.0 * i for i in range(12)])
        truth = by_request(server.mock.truth())
    ended = sorted(row.end_ns or 0 for row in truth.values())
    assert max(row.received_ns for row in truth.values()) < ended[8]
    waited_ms = [((o.first_token_ns or 0) - scheduled_ns) / _MS for scheduled_ns, o in sent]
    # One every 10 ms comes, one every 100 ms goes. Whose turn it is, is the server's business.
    assert max(waited_ms) > 12 * 100 - 11 * 10
    assert sorted(waited_ms)[6] > 400


def test_gaps_of_no_length_are_sent_together(tmp_path: Path) -> None:
    with stand(Behaviour(ttft_ms=300), tmp_path) as server:
        sent, _ = _drive(server, [0.0] * 20 + [50.0] * 20)
        truth = by_request(server.mock.truth())
    assert [outcome.status for _, outcome in sent] == ["ok"] * 40
    assert len({scheduled_ns for scheduled_ns, _ in sent}) == 2
    assert max(row.received_ns for row in truth.values()) < min(
        row.end_ns or 0 for row in truth.values()
    )


def test_requests_beyond_the_limit_are_dropped(tmp_path: Path) -> None:
    # The last one comes when the first have long been answered.
    offsets_ms = [10.0 * i for i in range(12)] + [1200.0]
    with stand(Behaviour(ttft_ms=500), tmp_path) as server:
        sent, answers = _drive(server, offsets_ms, max_streams=5)
        truth = by_request(server.mock.truth())
    assert answers == 13
    statuses = [outcome.status for _, outcome in sent]
    assert statuses == ["ok"] * 5 + ["dropped"] * 7 + ["ok"]
    assert sorted(truth) == [0, 1, 2, 3, 4, 12]
    for scheduled_ns, outcome in sent[5:12]:
        assert outcome.status == "dropped"
        assert outcome.error is not None
        assert outcome.error.startswith("5 streams were open: raise the limit of open files")
        assert outcome.sent_ns is outcome.end_ns is None
        assert scheduled_ns > sent[0][0]


def test_request_that_fails_does_not_hold_up_the_others(tmp_path: Path) -> None:
    behaviour = Behaviour(error_every=2, reset_every=3, truncate_every=5)
    with stand(behaviour, tmp_path) as server:
        sent, answers = _drive(server, [20.0 * i for i in range(10)])
        truth = by_request(server.mock.truth())
    names = {"ok": "ok", "error": "http-error", "reset": "reset", "truncate": "truncated"}
    assert answers == 10
    assert [outcome.status for _, outcome in sent] == [names[truth[i].outcome] for i in range(10)]
    assert {outcome.status for _, outcome in sent} == set(names.values())
    assert all(in_order(outcome, scheduled_ns) for scheduled_ns, outcome in sent)


def test_nothing_to_send(tmp_path: Path) -> None:
    with stand(Behaviour(), tmp_path) as server:
        assert _drive(server, []) == ([], 0)


def test_turns_are_taken_within_the_traffic_and_take_no_time_in_the_record(tmp_path: Path) -> None:
    offsets_ms = [20.0 * i for i in range(10)]
    behaviours = {"a": 40.0, "b": 5.0}
    sent: dict[str, list[tuple[int, Outcome]]] = {}
    spans: dict[str, list[tuple[int, int]]] = {}

    def drive(name: str, turns: Turns) -> None:
        behaviour = Behaviour(ttft_ms=behaviours[name])
        with stand(behaviour, tmp_path / name) as server:
            with turns.take():
                sent[name], _ = _drive(server, offsets_ms, turns=turns, turn_requests=4)
            truth = by_request(server.mock.truth())
        turn = (range(4), range(4, 8), range(8, 10))
        spans[name] = [
            (truth[part[0]].received_ns, max(truth[i].end_ns or 0 for i in part)) for part in turn
        ]

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(drive, behaviours, map(Turns, places(2))))
    # Turn by turn, to the last answer: who has the second begins the next round.
    names = "abbaba"
    left = {name: iter(own) for name, own in spans.items()}
    order = [next(left[name]) for name in names]
    assert all(end < start for (_, end), (start, _) in pairwise(order))
    for outcomes in sent.values():
        due = np.array([scheduled_ns for scheduled_ns, _ in outcomes])
        assert ((due - due[0]) / _MS == offsets_ms).all()
        assert all(in_order(outcome, scheduled_ns) for scheduled_ns, outcome in outcomes)
        assert max((o.end_ns or 0) - scheduled_ns for scheduled_ns, o in outcomes) < 300 * _MS


def test_without_others_a_turn_costs_no_time(tmp_path: Path) -> None:
    offsets_ms = [0.0, 10.0, 900.0, 910.0]
    watch = Watch(os.getpid())
    with stand(Behaviour(ttft_ms=20), tmp_path) as server:
        sent, _ = _drive(server, offsets_ms, turn_requests=2, watch=watch)
        truth = by_request(server.mock.truth())
    late_ms = [
        (truth[i].received_ns - scheduled_ns) / _MS for i, (scheduled_ns, _) in enumerate(sent)
    ]
    # The server's own clock, which nothing is taken off: the third was sent when it was due.
    assert max(late_ms) < 200
    assert [turn.first_request for turn in watch.turns] == [0, 2]
    for turn in watch.turns:
        _, last = sent[turn.first_request + 1]
        assert turn.start_ns < sent[turn.first_request][0] < (last.end_ns or 0) < turn.end_ns
