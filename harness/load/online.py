"""Cells on a server: started, warmed up, loaded in the cell's mode, counted and ended."""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import uvloop

from harness import model as models
from harness.cell import METRICS, WorkerOrder
from harness.engines import server as servers
from harness.engines.base import warm_up_prompts
from harness.engines.server import MODEL, Server
from harness.errors import HarnessError
from harness.load import arrivals, batch_http, closed_loop, open_loop
from harness.load.batch import batches
from harness.load.client import Client, Outcome, body, connect
from harness.load.spec import BatchHTTP, ClosedLoop, Load, OpenLoop
from harness.measure import counters, disturbance, records
from harness.measure.disturbance import Watch
from harness.measure.provenance import provenance
from harness.measure.records import TelemetryRecord
from harness.measure.summary import summarize
from harness.measure.validity import ClientLoad
from harness.turns import Turns
from workloads import file as workload_file
from workloads.file import Workload, longest
from workloads.tokens import token_ids

_REPORTS = 4
# Descriptors that are not streams: files, the event loop's own, connections being closed.
_OTHER_DESCRIPTORS = 200

T = TypeVar("T")


def measure(order: WorkerOrder, turns: Turns, report: Callable[[str], object]) -> None:
    """Measure one cell on a server of its own and write the cell's files.

    Args:
        order: The cell, and where everything is.
        turns: One is taken for each batch or an open loop's ``turn_requests``, and one for all
            requests of other modes.
        report: Called with a line on the progress now and then.

    Raises:
        HarnessError: if the server cannot be started, or dies.

    """
    # An exception, so that the server is ended and not only left to notice.
    signal.signal(signal.SIGTERM, _exit)
    ((folder, spec),) = order.cells.items()
    workload = workload_file.read(order.workload)
    tokenizer = models.load_tokenizer(order.model)
    prompts = token_ids(workload, tokenizer, tokenizer.vocab_size)
    most = longest(workload.requests)
    temporary = Path(os.environ["TMPDIR"])
    with (
        servers.serve(
            spec,
            order.model,
            max_model_len=most.prompt_tokens + most.output_tokens,
            temporary=temporary,
            report=report,
        ) as server,
        turns.take(),
    ):
        report(f"server ready, {len(prompts)} requests to go")
        # Back here, all others have started, too.
        turns.offer()
        lengths = [len(prompt) for prompt in prompts]
        server.warm_up(warm_up_prompts(lengths, tokenizer.vocab_size, spec.seed))
        fresh = server.counters()
        watch = Watch(os.getpid(), *disturbance.processes_of(server.process.pid))
        progress = _Progress(len(prompts), report)
        telemetry: list[TelemetryRecord] = []

        def observe() -> None:
            # Of all that was sent so far, the last.
            last = progress.answered - 1
            if not telemetry or telemetry[-1].request != last:
                telemetry.append(TelemetryRecord(last, server.policy_state()))

        turns.at_end = observe
        sent, client = drive(
            spec.load,
            workload,
            prompts,
            spec.seed,
            server,
            temporary,
            turns,
            watch,
            progress.answer,
        )
        observe()
        turns.at_end = lambda: None
        metrics, version = server.metrics_text(), server.version
        # What is left to do would cost the others time: not before they have finished.
        turns.offer()
    source = provenance(spec, order, engine_version=version, engine_file=servers.imported_from())
    rows = [
        records.of_outcome(
            request, request.request < workload.header.warm_up, scheduled_ns, outcome
        )
        for request, (scheduled_ns, outcome) in zip(workload.requests, sent, strict=True)
    ]
    summary = summarize(spec, rows, fresh, counters.parse(metrics), client, watch.turns)
    (folder / METRICS).write_text(metrics)
    records.write(folder, rows, telemetry, watch.turns, summary, source)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


class _Progress:
    """How many requests of a total were answered; reports some of them."""

    def __init__(self, total: int, report: Callable[[str], object]) -> None:
        self._total, self._report = total, report
        self._reports = {total * i // _REPORTS for i in range(1, _REPORTS + 1)}
        self.answered = 0

    def answer(self) -> None:
        """Count one more."""
        self.answered += 1
        if self.answered in self._reports:
            self._report(f"{self.answered}/{self._total} requests answered")


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
