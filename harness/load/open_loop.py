"""Open loop: every request is sent at its time, whatever the server does.

Latency counts from the scheduled time, as in MLPerf's LoadGen and wrk2: a request that a slow
server, or a slow client, held up has waited since then.

Cells that are compared may take turns within the traffic: so many requests each, at their times and
to the last answer. The record keeps to the schedule's time, in which the others' turns take none.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from harness.disturbance import Watch
from harness.load.alarm import Alarm
from harness.load.client import Body, Client, Outcome
from harness.turns import Turns

# Before the first request is due.
_LEAD_NS = 200_000_000


async def drive(
    client: Client,
    bodies: Sequence[Body],
    offsets_ns: Sequence[int],
    max_streams: int,
    turns: Turns,
    watch: Watch,
    turn_requests: int | None = None,
    done: Callable[[], object] = lambda: None,
) -> list[tuple[int, Outcome]]:
    """Send all requests at their times and wait for the last answer.

    Args:
        client: Of the server.
        bodies: What to send.
        offsets_ns: When each is due, in ns after the first; ascending.
        max_streams: A request that is due while so many are open is dropped, and says so.
        turns: Offered after so many requests as follow.
        watch: Told of each turn.
        turn_requests: Requests a turn; None: all.
        done: Called after each answer.

    Returns:
        Scheduled time and outcome of each request, in order; times are ns, monotonic, and those of
        all turns but the first are moved to where they would be without a pause.

    """
    results: list[tuple[int, Outcome]] = []
    step = turn_requests or max(len(bodies), 1)
    start_ns = time.monotonic_ns() + _LEAD_NS
    for first in range(0, len(bodies), step):
        part = slice(first, first + step)
        due_ns = [start_ns + int(offset_ns) for offset_ns in offsets_ns[part]]
        pause_ns = 0
        if first:
            await asyncio.to_thread(turns.offer)
        with watch.turn(first):
            if first:
                pause_ns = max(0, time.monotonic_ns() + _LEAD_NS - due_ns[0])
            outcomes = await _send(
                client, first, bodies[part], [due + pause_ns for due in due_ns], max_streams, done
            )
        results += [
            (due, outcome.moved(-pause_ns)) for due, outcome in zip(due_ns, outcomes, strict=True)
        ]
    return results


async def _send(
    client: Client,
    first: int,
    bodies: Sequence[Body],
    due_ns: Sequence[int],
    max_streams: int,
    done: Callable[[], object],
) -> list[Outcome]:
    num_open = 0

    async def send(request: int, content: Body) -> Outcome:
        nonlocal num_open
        try:
            return await client.complete(request, content)
        finally:
            num_open -= 1
            done()

    async def drop() -> Outcome:
        done()
        return Outcome("dropped", f"{max_streams} streams were open")

    async with asyncio.TaskGroup() as tasks:
        sending = []
        with Alarm() as alarm:
            for request, (content, due) in enumerate(zip(bodies, due_ns, strict=True), first):
                # What is late is sent at once, with all else that is.
                if time.monotonic_ns() < due:
                    await alarm.until(due)
                if num_open < max_streams:
                    num_open += 1
                    sending.append(tasks.create_task(send(request, content)))
                else:
                    sending.append(tasks.create_task(drop()))
    return [task.result() for task in sending]
