"""Our client, measured: what it says of a run, and what the mock server says of the same.

Each run is a process of its own, this module run as ``python -m harness.bench.ours ORDER_JSON``,
which sends as cells do, with ``harness.load.sending``, to a mock that it starts, and leaves a
``Reply``.
"""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from harness.bench import mock
from harness.bench.mock import Behaviour, Truth
from harness.cell import ClosedLoop, Load, OpenLoop
from harness.disturbance import Watch
from harness.engines.vllm.server import VLLMServer
from harness.errors import HarnessError
from harness.load.client import ClientLoad, Outcome, headers
from harness.processes import end_group
from harness.turns import Turns
from workloads.file import BlockRequest, BlockWorkload, Header

_SEED = 42
_TAIL_LINES = 10


class Order(BaseModel):
    """What our client is to send, and to whom.

    Attributes:
        behaviour: The mock's.
        load: How.
        requests: Their number.
        output_tokens: Of each request.
        servers: Processes of the mock.
        folder: An empty folder for what is only needed meanwhile.
        reply: The file for its ``Reply``.

    """

    behaviour: Behaviour
    load: Load
    requests: int
    output_tokens: int
    servers: int = 1
    folder: Path
    reply: Path


class Reply(BaseModel):
    """What our client says of a run, and what the server does.

    Attributes:
        sent: Scheduled time (ns, monotonic; None: by no schedule) and outcome of each request.
        cost: What sending took.
        cpu_seconds: What the client took in all, user and system time, to start too; not counted
            are the processes that it started.
        truth: What the server did about each request.

    """

    sent: list[tuple[int | None, Outcome]]
    cost: ClientLoad
    cpu_seconds: float
    truth: list[Truth]


def exchange(
    behaviour: Behaviour,
    load: OpenLoop | ClosedLoop,
    requests: int,
    output_tokens: int,
    servers: int = 1,
) -> Reply:
    """Have our client send so many requests to a mock of so many processes.

    Raises:
        HarnessError: if it fails.

    """
    with started(behaviour, load, requests, output_tokens, servers) as finish:
        return finish()


@contextlib.contextmanager
def started(
    behaviour: Behaviour,
    load: OpenLoop | ClosedLoop,
    requests: int,
    output_tokens: int,
    servers: int = 1,
) -> Iterator[Callable[[], Reply]]:
    """Begin an ``exchange``, and give what waits for its end; nothing outlives this block."""
    with tempfile.TemporaryDirectory() as name:
        folder, reply, log = Path(name, "client"), Path(name, "reply.json"), Path(name, "log.txt")
        folder.mkdir()
        order = Order(
            behaviour=behaviour,
            load=load,
            requests=requests,
            output_tokens=output_tokens,
            servers=servers,
            folder=folder,
            reply=reply,
        )
        command = [sys.executable, "-m", "harness.bench.ours", order.model_dump_json()]
        with log.open("wb") as said:
            client = subprocess.Popen(
                command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
            )

        def finish() -> Reply:
            if code := client.wait():
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
                raise HarnessError(f"our client: exit code {code}:\n{tail}")
            return Reply.model_validate_json(reply.read_bytes())

        try:
            yield finish
        finally:
            # The mock too, and Locust, whatever ended this.
            end_group(client)


def check_all_ok(reply: Reply) -> None:
    """Check that all went well, without which there is nothing to measure.

    Raises:
        HarnessError: if a request failed.

    """
    statuses = Counter(outcome.status for _, outcome in reply.sent)
    if set(statuses) != {"ok"}:
        raise HarnessError(f"our client: not all requests went well: {dict(statuses)}")


def request_id(request: int) -> str:
    """Return what the server knows a request of ours by."""
    return headers(request)["X-Request-Id"]


def by_name(
    truth: Iterable[Truth], name_of: Callable[[Truth], str | None]
) -> dict[str | None, Truth]:
    """Return the truth about each request by its name.

    Raises:
        HarnessError: if two have the same, so that nobody knows which one a client speaks of.

    """
    found: dict[str | None, Truth] = {}
    for row in truth:
        if found.setdefault(name := name_of(row), row) is not row:
            raise HarnessError(f"{name!r} was sent twice")
    return found


def errors_ms(reported_ms: Mapping[str, float], true: Mapping[str | None, Truth]) -> list[float]:
    """Return how far each reported TTFT is from the true one, in ms, whichever is larger.

    One that is too short, as of a client that starts to count late, is as wrong as one too long.

    Raises:
        HarnessError: if one is reported of a request that the server has sent no token.

    """
    found = []
    for name, ttft_ms in reported_ms.items():
        truth = true.get(name)
        if truth is None or truth.first_token_ns is None:
            raise HarnessError(f"a TTFT was reported of {name!r}, which the server never answered")
        found.append(abs(ttft_ms - (truth.first_token_ns - truth.received_ns) / 1e6))
    return found


def quantiles(values: Sequence[float]) -> tuple[float, float]:
    """Return p50 and p99."""
    p50, p99 = np.percentile(values, (50, 99))
    return float(p50), float(p99)


def most_open(truth: Iterable[Truth]) -> int:
    """Return how many requests were with the server at a time, at most."""
    changes = []
    for row in truth:
        assert row.end_ns is not None
        changes += [(row.received_ns, 1), (row.end_ns, -1)]
    return max((int(n) for n in np.cumsum([change for _, change in sorted(changes)])), default=0)


def miscounted(outcomes: Sequence[Outcome], truth: Iterable[Truth]) -> tuple[int, int]:
    """Return how many requests were lost, and how many were sent more than once.

    Lost is one unless client and server both say that all went well, and with as many tokens.
    """
    rows: dict[str, list[Truth]] = {}
    for row in truth:
        rows.setdefault(row.x_request_id or "", []).append(row)
    lost = 0
    for request, outcome in enumerate(outcomes):
        tokens = outcome.usage.output_tokens if outcome.usage else None
        served = rows.get(request_id(request), [])
        lost += outcome.status != "ok" or not any(
            row.outcome == "ok" and row.output_tokens == tokens for row in served
        )
    return lost, sum(len(served) - 1 for served in rows.values())


def main() -> None:
    """Send what the order on the command line says."""
    # Only here, since it takes a second and is not needed to give the order.
    from harness.load import sending

    order = Order.model_validate_json(sys.argv[1])
    requests = tuple(
        BlockRequest(request=i, prompt_tokens=5, output_tokens=order.output_tokens, runs=())
        for i in range(order.requests)
    )
    header = Header(
        content="blocks", name="bench", seed=_SEED, block_size=16, requests=len(requests), params={}
    )
    with mock.running(order.behaviour, order.folder, order.servers) as server:
        sent, cost = sending.drive(
            order.load,
            BlockWorkload(header, requests),
            [[0, i, 1, 2, 3] for i in range(order.requests)],
            _SEED,
            VLLMServer(server.url, server.process),
            order.folder,
            Turns.alone(),
            Watch(),
            lambda: None,
        )
        cpu_seconds = time.process_time()
    reply = Reply(sent=sent, cost=cost, cpu_seconds=cpu_seconds, truth=server.truth())
    order.reply.write_text(reply.model_dump_json())


if __name__ == "__main__":
    main()
