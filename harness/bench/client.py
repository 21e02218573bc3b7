"""How well our own clients measure, beside other tools, on a server that knows the truth.

The mock server writes down when it received each request and when it sent the first token, on the
clock that the clients read. The error of a client is by how much its TTFT differs from the time
between the two: its own delays, and the way to the server's handler and back, which is the same for
all. Tools begin to count at moments of their own (``harness.bench.peers``); what one of them leaves
out, such as the wait for a connection, is not in its error. All share the machine with the mock, as
they would with a server on it, so a tool that takes much of it delays itself.

Each client is a process of its own with a fresh mock; ours is ``harness.bench.ours``.
"""

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.bench import crowd, mock, ours, peers, process, results
from harness.bench.mock import Behaviour
from harness.bench.ours import Reply
from harness.bench.peers import Aiperf, Guidellm, Peer, VllmBench
from harness.bench.results import Result
from harness.cell import ClosedLoop, OpenLoop
from harness.errors import HarnessError

OURS = "ours"
_ROUNDS = 3
_PEER_SECONDS = 120.0


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
        *crowd.measure(),
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
    of_ours = p99_ms.pop(OURS)
    if p99_ms:
        best = min(p99_ms, key=lambda name: p99_ms[name])
        rows.append(
            Result(
                f"{OURS}: TTFT error p99 at {rate}/s, ours / best peer ({best})",
                of_ours / p99_ms[best],
                "ratio",
                1.0,
            )
        )
    return rows


def _errors_of_ours(rate: _Rate) -> Errors:
    load = OpenLoop(mode="open-loop", arrivals="constant", request_rate=rate.per_second)
    reply = ours.exchange(_STREAMS, load, rate.requests, _TOKENS)
    ours.check_all_ok(reply)
    from_sent, from_due = {}, {}
    for request, (scheduled_ns, outcome) in enumerate(reply.sent):
        assert scheduled_ns is not None
        assert outcome.sent_ns is not None
        assert outcome.first_token_ns is not None
        name = ours.request_id(request)
        from_sent[name] = (outcome.first_token_ns - outcome.sent_ns) / 1e6
        from_due[name] = (outcome.first_token_ns - scheduled_ns) / 1e6
    true = ours.by_name(reply.truth, lambda row: row.x_request_id)
    p50_ms, p99_ms = ours.quantiles(ours.errors_ms(from_sent, true))
    _, scheduled_p99_ms = ours.quantiles(ours.errors_ms(from_due, true))
    return Errors(p50_ms, p99_ms, reply.cpu_seconds, scheduled_p99_ms)


def _errors_of_rival(rival: Peer, rate: _Rate, model: Path, folder: Path) -> Errors:
    with tempfile.TemporaryDirectory() as name, mock.running(_STREAMS, Path(name)) as server:
        load = peers.Load(
            server.url, mock.MODEL, model, rate.requests, rate.per_second, output_tokens=_TOKENS
        )
        done = peers.run(rival, load, folder, _PEER_SECONDS)
        truth = server.truth()
    true = ours.by_name(truth, lambda row: row.prompt)
    if len(done.ttft_ms) < rate.requests:
        process.report(
            f"warning: {rival.name} reports {len(done.ttft_ms)} of {rate.requests} requests"
        )
    return Errors(*ours.quantiles(ours.errors_ms(done.ttft_ms, true)), done.cpu_seconds)


def _stall() -> list[Result]:
    """What a stall of the server does to the percentiles of an open loop, and of a closed one."""
    process.report("a server that stalls, open loop")
    open_loop = OpenLoop(mode="open-loop", arrivals="constant", request_rate=_STALLED_RATE)
    opened = ours.exchange(_STALLING, open_loop, _STALLED_REQUESTS, _STALLED_TOKENS)
    process.report("a server that stalls, closed loop")
    closed_loop = ClosedLoop(mode="closed-loop", users=_USERS, think_time_mean=_THINK_S)
    closed = ours.exchange(_STALLING, closed_loop, _STALLED_REQUESTS, _STALLED_TOKENS)
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
    ours.check_all_ok(reply)
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
    reply = ours.exchange(_CHATTY, load, _CHATTY_REQUESTS, _CHATTY_TOKENS)
    ours.check_all_ok(reply)
    what = f"{OURS}: CPU at {_CHATTY_RATE}/s of {_CHATTY_TOKENS} chunks"
    return [Result(what, reply.cost.cores, "cores", 0.5)]
