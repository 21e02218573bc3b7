"""Sends a workload to a server as a load says, whatever its mode."""

import asyncio
import contextlib
import gc
import os
import resource
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from harness.cell import BatchHTTP, ClosedLoop, Load, OpenLoop
from harness.disturbance import Watch
from harness.engines.server import MODEL, Server
from harness.errors import HarnessError
from harness.load import arrivals, batch_http, closed_loop, open_loop
from harness.load.batch import batches
from harness.load.client import Client, ClientLoad, Outcome, body, connect
from harness.turns import Turns
from workloads.file import Workload

# Descriptors that are not streams: files, the event loop's own, connections being closed.
_OTHER_DESCRIPTORS = 200

T = TypeVar("T")


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
        HarnessError: if the server dies.

    """
    if isinstance(load, ClosedLoop):
        with watch.turn(first_request=0):
            return closed_loop.drive(load, workload, prompts, seed, server, temporary, done)
    bodies = [
        body(MODEL, prompt, request.output_tokens)
        for prompt, request in zip(prompts, workload.requests, strict=True)
    ]
    max_streams = _raise_descriptor_limit()

    async def send() -> list[tuple[int, Outcome]]:
        async with connect(server.url) as client:
            return await _unless_it_dies(server, _send(client))

    async def _send(client: Client) -> list[tuple[int, Outcome]]:
        if isinstance(load, OpenLoop):
            offsets = arrivals.offsets_ns(load, workload, seed).tolist()
            return await open_loop.drive(
                client, bodies, offsets, max_streams, turns, watch, load.turn_requests, done
            )
        assert isinstance(load, BatchHTTP)
        cut = batches(workload.requests, load.batch_size, workload.header.warm_up)
        numbers = [[request.request for request in batch] for batch in cut]
        return await batch_http.drive(client, bodies, numbers, turns, watch, done)

    # Collecting what is there already would hold up the first requests.
    gc.collect()
    gc.freeze()
    start, cpu_start = time.monotonic() - turns.waited, time.process_time()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sent = runner.run(send())
    end = time.monotonic() - turns.waited
    cost = ClientLoad(time.process_time() - cpu_start, end - start)
    return list(sent), cost


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


def _raise_descriptor_limit() -> int:
    """Allow this process as many streams as the system does; return how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most - _OTHER_DESCRIPTORS
