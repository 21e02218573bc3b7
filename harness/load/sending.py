"""Sends a workload to a server as a load says, whatever its mode."""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from harness.cell import BatchHTTP, ClosedLoop, Load, OpenLoop
from harness.disturbance import Watch
from harness.engines.server import MODEL, Server
from harness.errors import HarnessError
from harness.load import arrivals, batch_http, closed_loop, collector, open_loop, senders
from harness.load.batch import batches
from harness.load.client import Body, Client, ClientLoad, Outcome, body, connect
from harness.load.limits import raise_stream_limit
from harness.load.open_loop import Due
from harness.turns import Turns
from workloads.file import Workload

T = TypeVar("T")
# Scheduled time and outcome of each request, in order.
_Sent = Sequence[tuple[int, Outcome]]


def drive(
    load: Load,
    workload: Workload,
    prompts: Sequence[Sequence[int]],
    seed: int,
    server: Server,
    temporary: Path,
    turns: Turns,
    watch: Watch,
    done: Callable[[], object],
) -> tuple[list[tuple[int | None, Outcome]], ClientLoad]:
    """Send a workload to a server as a load says.

    Args:
        load: How.
        workload: What.
        prompts: The token ids of each request's prompt.
        seed: Of arrivals and of users' think times.
        server: To whom.
        temporary: A folder for what is only needed meanwhile.
        turns: Offered after each batch or an open loop's ``turn_requests``.
        watch: Told of each turn.
        done: Called after each answer.

    Returns:
        Scheduled time (ns, monotonic; None: sent when a user got to it) and outcome of each request
        in order, and what that cost the client.

    Raises:
        HarnessError: if the server dies, or a process of the client.

    """
    if isinstance(load, ClosedLoop):
        with watch.turn(first_request=0):
            return closed_loop.drive(load, workload, prompts, seed, server, temporary, done)
    bodies = [
        body(MODEL, prompt, request.output_tokens)
        for prompt, request in zip(prompts, workload.requests, strict=True)
    ]
    if isinstance(load, OpenLoop):
        offsets_ns = arrivals.offsets_ns(load, workload, seed).tolist()
        if load.processes > 1:
            work = _by_processes(
                load, bodies, offsets_ns, server.url, temporary, turns, watch, done
            )
        else:
            work = _from_here(
                turns,
                server.url,
                lambda client: _open_loop(client, load, bodies, offsets_ns, turns, watch, done),
            )
    else:
        assert isinstance(load, BatchHTTP)
        cut = batches(workload.requests, load.batch_size, workload.header.warm_up)
        numbers = [[request.request for request in batch] for batch in cut]
        work = _from_here(
            turns,
            server.url,
            lambda client: batch_http.drive(client, bodies, numbers, turns, watch, done),
        )
    with collector.stopped(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sent, cost = runner.run(_unless_it_dies(server, work))
    return list(sent), cost


async def _from_here(
    turns: Turns, url: str, drive: Callable[[Client], Awaitable[_Sent]]
) -> tuple[_Sent, ClientLoad]:
    """Send from this process, and return what it cost, too."""
    start, cpu_start = time.monotonic() - turns.waited, time.process_time()
    async with connect(url) as client:
        sent = await drive(client)
    seconds = time.monotonic() - turns.waited - start
    return sent, ClientLoad(time.process_time() - cpu_start, seconds)


async def _open_loop(
    client: Client,
    load: OpenLoop,
    bodies: Sequence[Body],
    offsets_ns: Sequence[int],
    turns: Turns,
    watch: Watch,
    done: Callable[[], object],
) -> _Sent:
    max_streams = raise_stream_limit()

    async def send(part: range, begin_ns: int) -> list[Outcome]:
        due = (Due(i, bodies[i], begin_ns + offsets_ns[i]) for i in part)
        return await open_loop.send(client, due, max_streams, lambda *_: done())

    return await open_loop.drive(send, offsets_ns, turns, watch, load.turn_requests)


async def _by_processes(
    load: OpenLoop,
    bodies: Sequence[Body],
    offsets_ns: Sequence[int],
    url: str,
    temporary: Path,
    turns: Turns,
    watch: Watch,
    done: Callable[[], object],
) -> tuple[_Sent, ClientLoad]:
    async with senders.started(
        url, bodies, offsets_ns, load.processes, temporary, done
    ) as processes:
        watch.add(*processes.pids)
        start = time.monotonic() - turns.waited
        sent = await open_loop.drive(processes.send, offsets_ns, turns, watch, load.turn_requests)
        seconds = time.monotonic() - turns.waited - start
        return sent, ClientLoad(await processes.finish(), seconds, load.processes)


async def _unless_it_dies(server: Server, work: Coroutine[Any, Any, T]) -> T:
    """Await work; the moment that the server dies, cancel it.

    Raises:
        HarnessError: saying how the server died.

    """
    loop = asyncio.get_running_loop()
    dead = loop.create_future()
    descriptor = os.pidfd_open(server.process.pid)
    loop.add_reader(descriptor, lambda: None if dead.done() else dead.set_result(None))
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task, dead], return_when=asyncio.FIRST_COMPLETED)
        if dead.done():
            server.process.wait()
            raise HarnessError(f"{server.died()} while requests were under way")
        return await task
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        task.cancel()
        with contextlib.suppress(BaseException):
            await task
