"""Cells on a server: started, warmed up, loaded in the cell's mode, counted and ended."""

import importlib.util
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from harness import disturbance, patching
from harness import model as models
from harness.disturbance import Watch
from harness.engines import registry
from harness.engines import server as servers
from harness.engines.base import warm_up_prompts
from harness.load import sending
from harness.load.client import Outcome
from harness.measure import records
from harness.measure.order import WorkerOrder
from harness.measure.provenance import provenance
from harness.measure.records import METRICS, RequestRecord, TelemetryRecord
from harness.measure.summary import summarize
from harness.turns import Turns
from workloads import file as workload_file
from workloads.file import Request, longest
from workloads.tokens import token_ids

_REPORTS = 4


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
    kind = registry.ENGINES[spec.engine]
    assert kind.server is not None
    with (
        servers.serve(
            registry.imported(kind.server),
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
        sent, client = sending.drive(
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
        counted = server.count(metrics)
        # What is left to do would cost the others time: not before they have finished.
        turns.offer()
    source = provenance(spec, order, engine_version=version, engine_file=_engine_file(kind.package))
    rows = [
        of_outcome(request, request.request < workload.header.warm_up, scheduled_ns, outcome)
        for request, (scheduled_ns, outcome) in zip(workload.requests, sent, strict=True)
    ]
    summary = summarize(spec, rows, fresh, counted, client, watch.turns)
    (folder / METRICS).write_text(metrics)
    records.write(folder, rows, telemetry, watch.turns, summary, source)


def _engine_file(package: str) -> str:
    """Return what a server imports: what comes first on the path, or its environment's own."""
    found = importlib.util.find_spec(package)
    if found is not None and found.origin is not None:
        return found.origin
    return str(patching.find_package(package).folder / "__init__.py")


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


def of_outcome(
    request: Request, warm_up: bool, scheduled_ns: int | None, outcome: Outcome
) -> RequestRecord:
    """Return the record of a request that a client sent to a server.

    A server does not say which single blocks it holds, so there is no count of these.
    """
    usage = outcome.usage
    return RequestRecord(
        request=request.request,
        session=request.session,
        turn=request.turn,
        window=request.window,
        warm_up=warm_up,
        scheduled_ns=scheduled_ns,
        sent_ns=outcome.sent_ns,
        first_byte_ns=outcome.first_byte_ns,
        first_token_ns=outcome.first_token_ns,
        end_ns=outcome.end_ns,
        prompt_tokens=usage.prompt_tokens if usage else request.prompt_tokens,
        cached_tokens=usage.cached_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        queried_blocks=None,
        cached_blocks=None,
        status=outcome.status,
        error=outcome.error,
    )
