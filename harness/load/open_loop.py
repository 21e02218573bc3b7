"""Open loop: every request is sent at its time, whatever the server does.

Latency counts from the scheduled time, as in MLPerf's LoadGen and wrk2: a request that a slow
server, or a slow client, held up has waited since then.

Cells that are compared may take turns within the traffic: so many requests each, at their times and
to the last answer. The record keeps to the schedule's time, in which the others' turns take none.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from harness.disturbance import Watch
from harness.load.alarm import Alarm
from harness.load.client import Body, Client, Outcome
from harness.load.limits import ADVICE
from harness.turns import Turns

# Before the first request is due.
_LEAD_NS = 200_000_000


@dataclass(frozen=True)
class Due:
    """A request, and when it is to be sent: ns, monotonic."""

    request: int
    content: Body
    due_ns: int


async def drive(
    send: Callable[[range, int], Awaitable[Sequence[Outcome]]],
    offsets_ns: Sequence[int],
    turns: Turns,
    watch: Watch,
    turn_requests: int | None = None,
) -> list[tuple[int, Outcome]]:
    """Send all requests at their times and wait for the last answer.

    Args:
        send: Sends some requests, given their numbers and the instant (ns, monotonic) that their
            offsets count from, and returns what became of each.
        offsets_ns: When each is due, in ns after the first; ascending.
        turns: Offered after so many requests as follow.
        watch: Told of each turn.
        turn_requests: Requests a turn; None: all.

    Returns:
        Scheduled time and outcome of each request, in order; times are ns, monotonic, and those of
        all turns but the first are moved to where they would be without a pause.

    """
    results: list[tuple[int, Outcome]] = []
    step = turn_requests or max(len(offsets_ns), 1)
    start_ns = time.monotonic_ns() + _LEAD_NS
    for first in range(0, len(offsets_ns), step):
        part = range(first, min(first + step, len(offsets_ns)))
        pause_ns = 0
        if first:
            await asyncio.to_thread(turns.offer)
        with watch.turn(first):
            if first:
                due_ns = start_ns + offsets_ns[first]
                pause_ns = max(0, time.monotonic_ns() + _LEAD_NS - due_ns)
            outcomes = await send(part, start_ns + pause_ns)
        results += [
            (start_ns + offsets_ns[request], outcome.moved(-pause_ns))
            for request, outcome in zip(part, outcomes, strict=True)
        ]
    return results


async def send(
    client: Client,
    requests: Iterable[Due],
    max_streams: int,
    answered: Callable[[int, Outcome], object],
) -> list[Outcome]:
    """Send requests, each when it is due, and return what became of them when all have ended.

    Args:
        client: Of the server.
        requests: What to send, and when; ascending.
        max_streams: A request that is due while so many are open is dropped, and says so.
        answered: Called with each request's number and outcome as it ends.

    """
    num_open = 0

    async def complete(one: Due) -> Outcome:
        nonlocal num_open
        try:
            outcome = await client.complete(one.request, one.content)
        finally:
            num_open -= 1
        answered(one.request, outcome)
        return outcome

    async def drop(one: Due) -> Outcome:
        outcome = Outcome("dropped", f"{max_streams} streams were open: {ADVICE}")
        answered(one.request, outcome)
        return outcome

    async with asyncio.TaskGroup() as tasks:
        sending = []
        with Alarm() as alarm:
            for one in requests:
                # What is late is sent at once, with all else that is.
                if time.monotonic_ns() < one.due_ns:
                    await alarm.until(one.due_ns)
                if num_open < max_streams:
                    num_open += 1
                    sending.append(tasks.create_task(complete(one)))
                else:
                    sending.append(tasks.create_task(drop(one)))
    return [task.result() for task in sending]
