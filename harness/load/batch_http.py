"""Batches over HTTP: some requests sent together, the next ones when all have been answered."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from harness.disturbance import Watch
from harness.load.client import Body, Client, Outcome
from harness.turns import Turns


async def drive(
    client: Client,
    bodies: Sequence[Body],
    batches: Iterable[Sequence[int]],
    turns: Turns,
    watch: Watch,
    done: Callable[[], object] = lambda: None,
) -> list[tuple[int, Outcome]]:
    """Send batch after batch.

    Args:
        client: Of the server.
        bodies: What to send.
        batches: The numbers of the requests of each batch, in order.
        turns: Offered after each batch.
        watch: Told of each.
        done: Called after each answer.

    Returns:
        Scheduled time (ns, monotonic: that of its batch) and outcome of each request, in order.

    """

    async def send(request: int) -> Outcome:
        outcome = await client.complete(request, bodies[request])
        done()
        return outcome

    results: list[tuple[int, Outcome]] = []
    for batch in batches:
        with watch.turn(batch[0]):
            scheduled_ns = time.monotonic_ns()
            outcomes = await asyncio.gather(*map(send, batch))
        results += [(scheduled_ns, outcome) for outcome in outcomes]
        await asyncio.to_thread(turns.offer)
    return results
