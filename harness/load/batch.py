"""Batch mode: as many requests together as the batch size says, the next when all have finished."""

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.cell import METRICS, CellSpec, WorkerOrder
from harness.engines.base import Completion, Engine
from harness.load.spec import Batch
from harness.measure import records
from harness.measure.disturbance import Watch
from harness.measure.provenance import provenance
from harness.measure.records import RequestRecord, TelemetryRecord
from harness.measure.summary import summarize
from harness.turns import Turns
from workloads import file as workload_file
from workloads.file import BlockWorkload, Request, Workload

_REPORTS = 4


def measure(order: WorkerOrder, turns: Turns, report: Callable[[str], object]) -> None:
    """Start an engine for each cell, send it the workload, and write the cell's files.

    Args:
        order: The cells, and where everything is.
        turns: One is taken for each batch.
        report: Called with a line on the progress now and then.

    """
    workload = workload_file.read(order.workload)
    for folder, spec in order.cells.items():
        engine = _start(spec, order.model, workload)
        if len(order.cells) == 1:
            report(f"engine ready, {len(workload.requests)} requests to go")
            _measure(order, spec, folder, workload, engine, turns, report)
        else:
            hit_rate = _measure(order, spec, folder, workload, engine, turns, lambda _: None)
            report(
                f"{spec.policy}, {spec.cache_tokens} tokens, batch size {spec.load.label}: "
                f"hit rate {hit_rate:.3f}"
            )


def _start(spec: CellSpec, model: str, workload: Workload) -> Engine[Any]:
    # Imported here, since that decides on threads and devices, and takes seconds.
    if spec.engine == "replay":
        from harness.engines.replay import ReplayEngine

        assert isinstance(workload, BlockWorkload)
        return ReplayEngine(spec, model, workload)
    from harness.engines.vllm import VLLM

    return VLLM(spec, model, workload)


def _measure(
    order: WorkerOrder,
    spec: CellSpec,
    folder: Path,
    workload: Workload,
    engine: Engine[Any],
    turns: Turns,
    report: Callable[[str], object],
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
    assert isinstance(spec.load, Batch)
    with turns.take():
        # Back here, all others have started, too.
        turns.offer()
        fresh = engine.counters()
        for batch in batches(requests, spec.load.batch_size, warm_up):
            with watch.turn(batch[0].request):
                completions = engine.generate(batch)
            rows += [
                _record(*pair, len(rows) < warm_up) for pair in zip(batch, completions, strict=True)
            ]
            telemetry.append(TelemetryRecord(batch[-1].request, engine.policy_state() or {}))
            if reports & {request.request + 1 for request in batch}:
                hits = sum(r.cached_tokens or 0 for r in rows)
                hit_rate = hits / sum(r.prompt_tokens for r in rows)
                report(f"{len(rows)}/{len(requests)} requests, hit rate {hit_rate:.3f}")
            # After the last, too: what is left to do would cost the others time.
            turns.offer()
    summary = summarize(spec, rows, fresh, engine.counters(), turns=watch.turns)
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


def batches(requests: Sequence[Request], size: int, warm_up: int) -> Iterator[Sequence[Request]]:
    """Cut requests into batches, none of which has both warm-up requests and others."""
    for part in (requests[:warm_up], requests[warm_up:]):
        yield from (part[start : start + size] for start in range(0, len(part), size))


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
