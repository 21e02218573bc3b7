from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path

import pytest
from support.load import Stand, bodies, by_request, in_order, stand, with_client

from harness.bench.mock import Behaviour, Truth
from harness.disturbance import Watch
from harness.load import batch_http
from harness.load.client import Client, Outcome
from harness.turns import Turns


def _drive(
    server: Stand, given: Sequence[Sequence[int]]
) -> tuple[list[tuple[int, Outcome]], list[list[Truth]]]:
    """Return scheduled times and outcomes, and the truth of each batch."""
    answers = []
    contents = bodies(1 + max(chain.from_iterable(given)))

    async def run(client: Client) -> list[tuple[int, Outcome]]:
        return await batch_http.drive(
            client, contents, given, Turns.alone(), Watch(), lambda: answers.append(1)
        )

    sent = with_client(server.url, run)
    truth = by_request(server.mock.truth())
    assert len(answers) == len(sent) == len(truth)
    return sent, [[truth[request] for request in batch] for batch in given]


def test_together_and_the_next_when_all_have_finished(tmp_path: Path) -> None:
    # The slowest of a batch takes some times as long as the fastest.
    behaviour = Behaviour(ttft_ms=250, ttft_sigma=0.4, itl_ms=20, seed=2)
    with stand(behaviour, tmp_path) as server:
        sent, truth = _drive(server, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]])
    assert [outcome.status for _, outcome in sent] == ["ok"] * 10
    assert all(in_order(outcome, scheduled_ns) for scheduled_ns, outcome in sent)
    for batch in truth:
        assert max(row.received_ns for row in batch) < min(row.end_ns or 0 for row in batch)
    for batch, following in pairwise(truth):
        # The server's own `end_ns` is after its last write, which the client may see before.
        last = max((row.first_token_ns or 0) for row in batch)
        assert min(row.received_ns for row in following) > last
    scheduled = [scheduled_ns for scheduled_ns, _ in sent]
    assert [scheduled.index(time) for time in scheduled] == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]
    for number, start in ((0, 4), (4, 8)):
        ended = [outcome.end_ns or 0 for _, outcome in sent[number : number + 4]]
        assert max(ended) < scheduled[start]
        assert max(ended) - min(ended) > 50_000_000


def test_batches_of_one_are_one_after_the_other(tmp_path: Path) -> None:
    with stand(Behaviour(ttft_ms=20), tmp_path) as server:
        sent, _ = _drive(server, [[i] for i in range(6)])
    for (_, outcome), (scheduled_ns, _) in pairwise(sent):
        assert (outcome.end_ns or 0) < scheduled_ns


@pytest.mark.parametrize(
    "fault", ["error_every", "reset_every", "truncate_every", "empty_every", "stream_error_every"]
)
def test_batch_with_a_request_that_fails_ends_like_any(tmp_path: Path, fault: str) -> None:
    behaviour = Behaviour.model_validate({"ttft_ms": 20, fault: 3})
    with stand(behaviour, tmp_path) as server:
        sent, truth = _drive(server, [[0, 1, 2], [3, 4, 5]])
    # Which of a batch is the server's third is the network's business.
    for number, batch in enumerate(truth):
        statuses = [outcome.status for _, outcome in sent[3 * number : 3 * number + 3]]
        assert statuses.count("ok") == 2
        assert [row.outcome == "ok" for row in batch] == [status == "ok" for status in statuses]
