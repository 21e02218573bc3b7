"""How many streams, and how many tokens a second, processes of our clients are good for.

More streams at a time, at as many requests and tokens a second, are streams that take longer; so
what differs between 100 and 2,000 is their number alone. Both are sent at the same time, by clients
and to mocks of their own, so that whatever else the machine does meets both alike. What a client
says of TTFT is held against the mock's truth, as in ``harness.bench.client``.

A process is good for so many tokens a second as take it ``validity.MAX_CLIENT_CORES`` of a core, by
its CPU time for each. Where processes wait for a core, each read has more tokens, and costs less
for each, so of several such figures the least is right.
"""

import contextlib
from collections.abc import Callable

from harness.bench import ours, process
from harness.bench.mock import Behaviour
from harness.bench.ours import Reply
from harness.bench.results import Result
from harness.cell import ClosedLoop, OpenLoop
from harness.errors import HarnessError
from harness.measure.validity import MAX_CLIENT_CORES

_PROCESSES = (1, 2)
# The mock's, so that it is not what is measured.
_SERVERS = 2

_FEW, _MANY = 100, 2000
# Requests a second, their number, of which the later half is sent while all streams are open, and
# the tokens of each.
_RATE, _REQUESTS, _TOKENS = 200, 6000, 8
# Of a stream's time: to the first token, and a user's to think, without which all would go on
# sending together as they began.
_TTFT_SHARE, _THINK_SHARE = 0.4, 0.5
# Streams at a time that make it a measurement of that many.
_ENOUGH = 0.9

_CHATTY = Behaviour(ttft_ms=50, itl_ms=10)
_CHATTY_TOKENS, _CHATTY_SECONDS = 64, 8
_CHATTY_RATES = (50, 100, 200)
# A user takes a second for a request.
_CHATTY_STREAM_S, _CHATTY_THINK_S = 0.68, 0.32

_Make = Callable[[int, float, float, int], OpenLoop | ClosedLoop]


def _open(rate: int, _: float, __: float, processes: int) -> OpenLoop:
    return OpenLoop(mode="open-loop", arrivals="constant", request_rate=rate, processes=processes)


def _closed(rate: int, stream_s: float, think_s: float, processes: int) -> ClosedLoop:
    """Return as many users as send so many requests a second if their streams take so long."""
    users = round(rate * (stream_s + think_s) / processes) * processes
    return ClosedLoop(mode="closed-loop", users=users, think_time_mean=think_s, processes=processes)


_LOOPS: dict[str, _Make] = {"open": _open, "closed": _closed}


def measure() -> list[Result]:
    """Measure both loops, with one process and with several.

    Raises:
        HarnessError: if our client fails, or not as many streams were open as are measured.

    """
    return [*_streams(), *_tokens()]


def _streams() -> list[Result]:
    """Whether few streams and many are each counted once, and how far their TTFTs are off."""
    found = []
    for loop, make in _LOOPS.items():
        for processes in _PROCESSES:
            process.report(f"{loop} loop of {processes}, {_FEW} and {_MANY} streams at a time")
            with contextlib.ExitStack() as stack:
                finishes = {
                    streams: stack.enter_context(_started(make, streams, processes))
                    for streams in (_FEW, _MANY)
                }
                replies = {streams: finish() for streams, finish in finishes.items()}
            quantiles = {}
            for streams, reply in replies.items():
                ours.check_all_ok(reply)
                if (at_a_time := ours.most_open(reply.truth)) < _ENOUGH * streams:
                    raise HarnessError(
                        f"no more than {at_a_time} of {streams} streams were open at a time"
                    )
                quantiles[streams] = ours.quantiles(later_errors_ms(reply))
                lost, twice = ours.miscounted([one for _, one in reply.sent], reply.truth)
                what = f"{loop} loop of {processes}, {streams} streams"
                found += [
                    Result(f"{what}: TTFT error p50", quantiles[streams][0], "ms"),
                    Result(f"{what}: TTFT error p99", quantiles[streams][1], "ms"),
                    Result(f"{what}: CPU of each", reply.cost.cores, "cores"),
                    Result(f"{what}: requests lost", lost, "requests", 0),
                    Result(f"{what}: sent twice", twice, "requests", 0),
                ]
            what = f"{loop} loop of {processes}, {_MANY} / {_FEW} streams: TTFT error"
            found += [
                Result(f"{what} {name}", many / few, "ratio")
                for name, few, many in zip(
                    ("p50", "p99"), quantiles[_FEW], quantiles[_MANY], strict=True
                )
            ]
    return found


def _started(
    make: _Make, streams: int, processes: int
) -> contextlib.AbstractContextManager[Callable[[], Reply]]:
    seconds = streams / _RATE
    rest_ms = 1000 * seconds * (1 - _TTFT_SHARE)
    behaviour = Behaviour(ttft_ms=1000 * seconds * _TTFT_SHARE, itl_ms=rest_ms / (_TOKENS - 1))
    load = make(_RATE, seconds, seconds * _THINK_SHARE, processes)
    return ours.started(behaviour, load, _REQUESTS, _TOKENS, _SERVERS)


def later_errors_ms(reply: Reply) -> list[float]:
    """Return the errors of the TTFTs, in ms, of the half of the requests that was sent later."""
    sent = sorted(
        (outcome.sent_ns or 0, request, outcome) for request, (_, outcome) in enumerate(reply.sent)
    )
    found = {}
    for sent_ns, request, outcome in sent[len(sent) // 2 :]:
        assert outcome.first_token_ns is not None
        found[ours.request_id(request)] = (outcome.first_token_ns - sent_ns) / 1e6
    return ours.errors_ms(found, ours.by_name(reply.truth, lambda row: row.x_request_id))


def _tokens() -> list[Result]:
    """What it takes to read many tokens, and how many are too many."""
    found = []
    for loop, make in _LOOPS.items():
        for rate in _CHATTY_RATES:
            for processes in _PROCESSES:
                per_second = rate * _CHATTY_TOKENS
                process.report(f"{loop} loop of {processes}, {per_second} tokens/s")
                load = make(rate, _CHATTY_STREAM_S, _CHATTY_THINK_S, processes)
                reply = ours.exchange(
                    _CHATTY, load, rate * _CHATTY_SECONDS, _CHATTY_TOKENS, _SERVERS
                )
                ours.check_all_ok(reply)
                _, p99_ms = ours.quantiles(later_errors_ms(reply))
                read = len(reply.sent) * _CHATTY_TOKENS
                what = f"{loop} loop of {processes}, {per_second} tokens/s"
                found += [
                    Result(f"{what}: CPU of each", reply.cost.cores, "cores"),
                    Result(f"{what}: TTFT error p99", p99_ms, "ms"),
                    Result(
                        f"{what}: each good for",
                        MAX_CLIENT_CORES * read / reply.cost.cpu_seconds,
                        "tokens/s",
                    ),
                ]
    return found
