"""How well our own clients measure, beside other tools, on a server that knows the truth.

The mock server writes down when it received each request and when it sent the first token, on the
clock that the clients read. The error of a client is by how much its TTFT differs from the time
between the two: its own delays, and the way to the server's handler and back, which is the same for
all. Tools begin to count at moments of their own (``harness.bench.peers``); what one of them leaves
out, such as the wait for a connection, is not in its error. All share the machine with the mock, as
they would with a server on it, so a tool that takes much of it delays itself.

Each client is a process of its own with a fresh mock. Ours is this module, run as ``python -m
harness.bench.client ORDER_JSON``, which sends as cells do, with ``harness.load.sending``, to a mock
that it starts, and leaves a ``Reply``.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from harness.bench import mock, peers, process, results
from harness.bench.mock import Behaviour, Truth
from harness.bench.peers import Aiperf, Guidellm, Peer, VllmBench
from harness.bench.results import Result
from harness.cell import ClosedLoop, Load, OpenLoop
from harness.disturbance import Watch
from harness.engines.vllm.server import VLLMServer
from harness.errors import HarnessError
from harness.load.client import ClientLoad, Outcome, headers
from harness.processes import end_group
from harness.turns import Turns
from workloads.file import BlockRequest, BlockWorkload, Header

OURS = "ours"
_SEED = 42
_ROUNDS = 3
_PEER_SECONDS = 120.0
_TAIL_LINES = 10


@dataclass(frozen=True)
class _Rate:
    """A load under which TTFTs are compared: requests a second, and how many requests.

    ``target_ms`` is the most that the error of ours may be at p99.
    """

    per_second: int
    requests: int
    target_ms: float


# Streams of 200 ms: 20 are open at 100 requests/s, 80 at 400.
_STREAMS = Behaviour(ttft_ms=50, ttft_sigma=0.2, itl_ms=10, itl_sigma=0.2)
_TOKENS = 16
_RATES = (_Rate(100, 800, 2), _Rate(400, 1600, 5))

# The server stands still in the middle of 40 s.
_STALL_S = 5.0
_STALLING = Behaviour(ttft_ms=10, itl_ms=10, stall_at_s=17.5, stall_s=_STALL_S)
_STALLED_RATE, _STALLED_REQUESTS, _STALLED_TOKENS = 50, 2000, 4
# As many requests a second, unless it stands still: 40 ms for the answer and 160 ms to think.
_USERS, _THINK_S = 10, 0.16
# Of what theory says; on top comes the time that the mock takes to answer all who have waited.
_STALLED_TARGET = 0.05
_QUANTILES = {"p99": 0.99, "p99.9": 0.999}

_CHATTY = Behaviour(ttft_ms=50, itl_ms=10)
_CHATTY_RATE, _CHATTY_REQUESTS, _CHATTY_TOKENS = 100, 1000, 64

# Streams of 2.75 s: 1,100 are open at a time.
_CROWD = Behaviour(ttft_ms=1250, itl_ms=100)
_CROWD_RATE, _CROWD_REQUESTS, _CROWD_TOKENS, _CROWD_STREAMS = 400, 2400, 16, 1000


class Order(BaseModel):
    """What our client is to send, and to whom.

    Attributes:
        behaviour: The mock's.
        load: How.
        requests: Their number.
        output_tokens: Of each request.
        folder: An empty folder for what is only needed meanwhile.
        reply: The file for its ``Reply``.

    """

    behaviour: Behaviour
    load: Load
    requests: int
    output_tokens: int
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


@dataclass(frozen=True)
class Errors:
    """How far the TTFTs that a tool reports of a run are from the truth.

    Attributes:
        p50_ms: Of TTFTs from when requests were sent.
        p99_ms: The same.
        cpu_seconds: What the tool took, to start too.
        scheduled_p99_ms: Of TTFTs from when requests were due; None: the tool reports none.

    """

    p50_ms: float
    p99_ms: float
    cpu_seconds: float
    scheduled_p99_ms: float | None = None


def run(build: Path, output: Path) -> list[Result]:
    """Measure, write the results to a file and return them.

    A tool that cannot be installed or run is left out, which is said on stderr.

    Args:
        build: Folder for a model and what the other tools need and leave.
        output: The JSON file.

    Raises:
        HarnessError: if our own client fails.

    """
    _, model = process.prepare(build)
    rivals = _rivals(build)
    folder = build / "client"
    folder.mkdir(exist_ok=True)
    found = [
        *_compare(rivals, model, folder),
        *_stall(),
        *_chatty(),
        *_crowd(),
    ]
    results.write(output, found)
    return found


def _rivals(build: Path) -> list[Peer]:
    """Return the other tools that can be had."""
    makers: dict[str, Callable[[Path], Peer]] = {Guidellm.name: Guidellm, Aiperf.name: Aiperf}
    found: list[Peer] = [VllmBench()]
    for name, make in makers.items():
        process.report(f"environment of {name}: making it, if it is not there (2 minutes)")
        try:
            found.append(make(peers.environment(name, build)))
        except HarnessError as error:
            process.report(f"warning: left out: {error}")
    return found


def _compare(rivals: Sequence[Peer], model: Path, folder: Path) -> list[Result]:
    """Errors of TTFT, in rounds in which each tool has its turn, since machines drift."""
    found: dict[tuple[str, int], list[Errors]] = {}
    left_out: set[str] = set()
    for i in range(_ROUNDS):
        for rate in _RATES:
            process.report(f"TTFT at {rate.per_second}/s, round {i + 1} of {_ROUNDS}")
            found.setdefault((OURS, rate.per_second), []).append(_errors_of_ours(rate))
            for rival in rivals:
                if rival.name in left_out:
                    continue
                try:
                    errors = _errors_of_rival(rival, rate, model, folder)
                except HarnessError as error:
                    process.report(f"warning: left out: {error}")
                    left_out.add(rival.name)
                else:
                    found.setdefault((rival.name, rate.per_second), []).append(errors)
    kept = {key: errors for key, errors in found.items() if key[0] not in left_out}
    return [result for rate in _RATES for result in compared(kept, rate.per_second, rate.target_ms)]


def compared(
    found: Mapping[tuple[str, int], Sequence[Errors]], rate: int, target_ms: float
) -> list[Result]:
    """Return the results at one rate, medians over rounds.

    Args:
        found: The errors of each round by tool and rate; ours must be among them.
        rate: Requests a second.
        target_ms: The most that the error of ours may be at p99, from sent and from scheduled.

    """
    p99_ms = {}
    rows = []
    for (name, at), rounds in found.items():
        if at != rate:
            continue
        p99_ms[name] = statistics.median(errors.p99_ms for errors in rounds)
        p50_ms = statistics.median(errors.p50_ms for errors in rounds)
        cpu_seconds = statistics.median(errors.cpu_seconds for errors in rounds)
        what = f"{name}: TTFT error at {rate}/s"
        from_due = [e.scheduled_p99_ms for e in rounds if e.scheduled_p99_ms is not None]
        rows += [
            Result(f"{what}, p50", p50_ms, "ms"),
            Result(f"{what}, p99", p99_ms[name], "ms", target_ms if name == OURS else None),
        ]
        if from_due:
            median = statistics.median(from_due)
            rows.append(Result(f"{what}, p99, from scheduled", median, "ms", target_ms))
        rows.append(Result(f"{name}: CPU at {rate}/s, start included", cpu_seconds, "s"))
    ours = p99_ms.pop(OURS)
    if p99_ms:
        best = min(p99_ms, key=lambda name: p99_ms[name])
        rows.append(
            Result(
                f"{OURS}: TTFT error p99 at {rate}/s, ours / best peer ({best})",
                ours / p99_ms[best],
                "ratio",
                1.0,
            )
        )
    return rows


def _errors_of_ours(rate: _Rate) -> Errors:
    load = OpenLoop(mode="open-loop", arrivals="constant", request_rate=rate.per_second)
    reply = _exchange(_STREAMS, load, rate.requests, _TOKENS)
    _check_all_ok(reply)
    from_sent, from_due = {}, {}
    for request, (scheduled_ns, outcome) in enumerate(reply.sent):
        assert scheduled_ns is not None
        assert outcome.sent_ns is not None
        assert outcome.first_token_ns is not None
        name = request_id(request)
        from_sent[name] = (outcome.first_token_ns - outcome.sent_ns) / 1e6
        from_due[name] = (outcome.first_token_ns - scheduled_ns) / 1e6
    true = by_name(reply.truth, lambda row: row.x_request_id)
    p50_ms, p99_ms = quantiles(errors_ms(from_sent, true))
    _, scheduled_p99_ms = quantiles(errors_ms(from_due, true))
    return Errors(p50_ms, p99_ms, reply.cpu_seconds, scheduled_p99_ms)


def _errors_of_rival(rival: Peer, rate: _Rate, model: Path, folder: Path) -> Errors:
    with tempfile.TemporaryDirectory() as name, mock.running(_STREAMS, Path(name)) as server:
        load = peers.Load(
            server.url, mock.MODEL, model, rate.requests, rate.per_second, output_tokens=_TOKENS
        )
        done = peers.run(rival, load, folder, _PEER_SECONDS)
        truth = server.truth()
    true = by_name(truth, lambda row: row.prompt)
    if len(done.ttft_ms) < rate.requests:
        process.report(
            f"warning: {rival.name} reports {len(done.ttft_ms)} of {rate.requests} requests"
        )
    return Errors(*quantiles(errors_ms(done.ttft_ms, true)), done.cpu_seconds)


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


def _stall() -> list[Result]:
    """What a stall of the server does to the percentiles of an open loop, and of a closed one."""
    process.report("a server that stalls, open loop")
    open_loop = OpenLoop(mode="open-loop", arrivals="constant", request_rate=_STALLED_RATE)
    opened = _exchange(_STALLING, open_loop, _STALLED_REQUESTS, _STALLED_TOKENS)
    process.report("a server that stalls, closed loop")
    closed_loop = ClosedLoop(mode="closed-loop", users=_USERS, think_time_mean=_THINK_S)
    closed = _exchange(_STALLING, closed_loop, _STALLED_REQUESTS, _STALLED_TOKENS)
    waits = {"open": _ttft_ms(opened), "closed": _ttft_ms(closed)}
    share = _STALL_S * _STALLED_RATE / _STALLED_REQUESTS
    found = []
    for name, p in _QUANTILES.items():
        measured = {loop: float(np.quantile(ttft_ms, p)) for loop, ttft_ms in waits.items()}
        theory = _STALLING.ttft_ms + stalled_ms(p, share, _STALL_S)
        what = f"server stalls {_STALL_S:g} s: TTFT {name}"
        found += [
            Result(f"{what}, open loop", measured["open"], "ms"),
            Result(f"{what}, theory", theory, "ms"),
            Result(
                f"{what}, open loop, off theory by",
                abs(measured["open"] / theory - 1),
                "of it",
                _STALLED_TARGET,
            ),
            Result(f"{what}, closed loop of {_USERS} users", measured["closed"], "ms"),
            Result(f"{what}, open / closed loop", measured["open"] / measured["closed"], "ratio"),
        ]
    # Each user of a closed loop meets the stall once and then holds its other requests back.
    for loop, ttft_ms in waits.items():
        waited = sum(value > 1000 for value in ttft_ms)
        what = f"server stalls {_STALL_S:g} s: TTFT above 1 s, {loop} loop"
        found.append(Result(what, waited, f"of {len(ttft_ms)}"))
    return found


def stalled_ms(p: float, share: float, stall_seconds: float) -> float:
    """Return the p-quantile of what a stall adds to latencies, in ms.

    Args:
        p: Below 1.
        share: Of all requests, how many arrive during the stall. They wait for its end, a time that
            is uniform between none and all of it.
        stall_seconds: How long it takes.

    """
    return 1000 * stall_seconds * max(0.0, 1 - (1 - p) / share)


def _ttft_ms(reply: Reply) -> list[float]:
    """Return each TTFT, in ms from when it was scheduled, or sent if it never was scheduled."""
    _check_all_ok(reply)
    found = []
    for scheduled_ns, outcome in reply.sent:
        start_ns = outcome.sent_ns if scheduled_ns is None else scheduled_ns
        assert start_ns is not None
        assert outcome.first_token_ns is not None
        found.append((outcome.first_token_ns - start_ns) / 1e6)
    return found


def _chatty() -> list[Result]:
    """What our client takes to read many tokens."""
    process.report("CPU time of our client")
    load = OpenLoop(mode="open-loop", arrivals="constant", request_rate=_CHATTY_RATE)
    reply = _exchange(_CHATTY, load, _CHATTY_REQUESTS, _CHATTY_TOKENS)
    _check_all_ok(reply)
    what = f"{OURS}: CPU at {_CHATTY_RATE}/s of {_CHATTY_TOKENS} chunks"
    return [Result(what, reply.cost.cores, "cores", 0.5)]


def _crowd() -> list[Result]:
    """Whether each of many streams at a time is counted once."""
    process.report("many streams at a time")
    load = OpenLoop(mode="open-loop", arrivals="constant", request_rate=_CROWD_RATE)
    reply = _exchange(_CROWD, load, _CROWD_REQUESTS, _CROWD_TOKENS)
    at_a_time = most_open(reply.truth)
    if at_a_time < _CROWD_STREAMS:
        raise HarnessError(f"no more than {at_a_time} streams were open at a time")
    outcomes = [outcome for _, outcome in reply.sent]
    lost, twice = miscounted(outcomes, reply.truth)
    what = f"{OURS}: {at_a_time} streams at a time"
    return [
        Result(f"{what}, requests lost", lost, "requests", 0),
        Result(f"{what}, counted twice", twice, "requests", 0),
    ]


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


def _check_all_ok(reply: Reply) -> None:
    statuses = Counter(outcome.status for _, outcome in reply.sent)
    if set(statuses) != {"ok"}:
        raise HarnessError(f"our client: not all requests went well: {dict(statuses)}")


def _exchange(
    behaviour: Behaviour, load: OpenLoop | ClosedLoop, requests: int, output_tokens: int
) -> Reply:
    """Have our client, in a process of its own, send so many requests to a mock.

    Raises:
        HarnessError: if it fails.

    """
    with tempfile.TemporaryDirectory() as name:
        folder, reply, log = Path(name, "client"), Path(name, "reply.json"), Path(name, "log.txt")
        folder.mkdir()
        order = Order(
            behaviour=behaviour,
            load=load,
            requests=requests,
            output_tokens=output_tokens,
            folder=folder,
            reply=reply,
        )
        command = [sys.executable, "-m", "harness.bench.client", order.model_dump_json()]
        with log.open("wb") as said:
            client = subprocess.Popen(
                command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                code = client.wait()
            finally:
                # The mock too, and Locust, whatever ended this.
                end_group(client)
        if code:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
            raise HarnessError(f"our client: exit code {code}:\n{tail}")
        return Reply.model_validate_json(reply.read_bytes())


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
    with mock.running(order.behaviour, order.folder) as server:
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
