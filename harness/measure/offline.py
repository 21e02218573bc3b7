"""Cells on engines in process: started, warmed up, given their batches and counted."""

import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.cell import Batch, CellSpec
from harness.cell import Fleet as FleetLoad
from harness.disturbance import Watch
from harness.engines import registry
from harness.engines.base import Completion, Engine
from harness.engines.fleet import Fleet
from harness.load import batch
from harness.measure import records
from harness.measure.order import WorkerOrder
from harness.measure.progress import Pulse
from harness.measure.provenance import provenance
from harness.measure.records import METRICS, RequestRecord, TelemetryRecord
from harness.measure.summary import summarize
from harness.turns import Turns
from workloads import file as workload_file
from workloads.file import Request, Workload

_REPORTS = 4


def measure(
    order: WorkerOrder,
    turns: Turns,
    report: Callable[[str], object],
    done: Callable[[int], object] = lambda _: None,
) -> None:
    """Start an engine for each cell, send it the workload, and write the cell's files.

    Args:
        order: The cells, and where everything is.
        turns: One is taken for each batch.
        report: Called with a line on the progress now and then.
        done: Called now and then with how many more requests are done.

    """
    workload = workload_file.read(order.workload)
    pulse = Pulse(done)
    for folder, spec in order.mine():
        engine = _start(spec, order.model, workload)
        if len(order.cells) == 1:
            report(f"engine ready, {len(workload.requests)} requests to go")
            _measure(order, spec, folder, workload, engine, turns, report, pulse)
        else:
            hit_rate = _measure(order, spec, folder, workload, engine, turns, lambda _: None, pulse)
            report(
                f"{spec.policy}, {spec.cache_tokens} tokens, {_said(spec)}: hit rate {hit_rate:.3f}"
            )


def _said(spec: CellSpec) -> str:
    name = "batch size" if spec.load.mode == "batch" else spec.load.mode
    return f"{name} {spec.load.label}"


def _start(spec: CellSpec, model: str, workload: Workload) -> Engine[Any]:
    # Imported here, since that decides on threads and devices, and takes seconds.
    offline = registry.ENGINES[spec.engine].offline
    assert offline is not None
    # The collector would look through thousands of modules again and again, a fifth of the time
    # that their import takes.
    gc.disable()
    kind = registry.imported(offline)
    gc.enable()

    def start() -> Engine[Any]:
        engine: Engine[Any] = kind(spec, model, workload)
        return engine

    return Fleet(spec, start) if spec.load.mode == "fleet" else start()


def _measure(
    order: WorkerOrder,
    spec: CellSpec,
    folder: Path,
    workload: Workload,
    engine: Engine[Any],
    turns: Turns,
    report: Callable[[str], object],
    pulse: Pulse,
) -> float:
    """Measure one cell on its engine, write its files and return its hit rate."""
    engine.warm_up()
    # As vLLM's server does: else pauses grow with all that was ever allocated.
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    requests, warm_up = workload.requests, workload.header.warm_up
    rows: list[RequestRecord] = []
    telemetry: list[TelemetryRecord] = []
    watch = Watch() if spec.tier == "replay" else Watch(os.getpid())
    reports = {len(requests) * i // _REPORTS for i in range(1, _REPORTS + 1)}

    def done(sent: Sequence[Request], completions: Sequence[Completion]) -> None:
        rows.extend(
            _record(*pair, len(rows) < warm_up) for pair in zip(sent, completions, strict=True)
        )
        pulse.add(len(sent))
        telemetry.append(TelemetryRecord(sent[-1].request, engine.policy_state() or {}))
        if reports & {request.request + 1 for request in sent}:
            hits = sum(r.cached_tokens or 0 for r in rows)
            hit_rate = hits / sum(r.prompt_tokens for r in rows)
            report(f"{len(rows)}/{len(requests)} requests, hit rate {hit_rate:.3f}")

    assert isinstance(spec.load, Batch | FleetLoad)
    with turns.take():
        # Back here, all others have started, too.
        turns.offer()
        fresh = engine.counters()
        batch.drive(engine, workload, spec.load, turns, watch, done)
    pulse.flush()
    summary = summarize(
        spec, rows, fresh, engine.counters(), turns=watch.turns, telemetry=telemetry
    )
    if metrics := engine.metrics_text():
        (folder / METRICS).write_text(metrics)
    source = provenance(
        spec,
        order,
        engine_version=engine.version,
        engine_file=engine.imported_from,
    )
    records.write(folder, rows, telemetry, watch.turns, summary, source)
    return float(summary["hit_rate"])


def _record(request: Request, completion: Completion, warm_up: bool) -> RequestRecord:
    return RequestRecord(
        request=request.request,
        session=request.session,
        turn=request.turn,
        window=request.window,
        warm_up=warm_up,
        scheduled_ns=None,
        sent_ns=completion.arrived_ns,
        first_byte_ns=None,
        first_token_ns=completion.first_token_ns,
        end_ns=completion.end_ns,
        prompt_tokens=completion.prompt_tokens,
        cached_tokens=completion.cached_tokens,
        output_tokens=completion.output_tokens,
        queried_blocks=completion.queried_blocks,
        cached_blocks=completion.cached_blocks,
        status="ok",
        error=None,
    )
