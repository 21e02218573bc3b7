"""Open loop: every request is sent at its time, whatever the server does.

Latency counts from the scheduled time, as in MLPerf's LoadGen and wrk2: a request that a slow
server, or a slow client, held up has waited since then.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from harness.load.alarm import Alarm
from harness.load.client import Client, Outcome

# Before the first request is due.
_LEAD_NS = 200_000_000


async def drive(
    client: Client,
    bodies: Sequence[bytes],
    offsets_ns: Sequence[int],
    max_streams: int,
    done: Callable[[], object] = lambda: None,
) -> list[tuple[int, Outcome]]:
    """Send all requests at their times and wait for the last answer.

    Args:
        client: Of the server.
        bodies: What to send.
        offsets_ns: When each is due, in ns after the first; ascending.
        max_streams: A request that is due while so many are open is dropped, and says so.
        done: Called after each answer.

    Returns:
        Scheduled time (ns, monotonic) and outcome of each request, in order.

    """
    num_open = 0
    start_ns = time.monotonic_ns() + _LEAD_NS

    async def send(request: int, content: bytes) -> Outcome:
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
            for request, (content, offset_ns) in enumerate(zip(bodies, offsets_ns, strict=True)):
                due_ns = start_ns + int(offset_ns)
                # What is late is sent at once, with all else that is.
                if time.monotonic_ns() < due_ns:
                    await alarm.until(due_ns)
                if num_open < max_streams:
                    num_open += 1
                    sending.append(tasks.create_task(send(request, content)))
                else:
                    sending.append(tasks.create_task(drop()))
    return [
        (start_ns + int(offset_ns), task.result())
        for offset_ns, task in zip(offsets_ns, sending, strict=True)
    ]
