"""Batch mode: as many requests together as the batch size says, the next when all have finished."""

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence

from harness import model as models
from harness.cell import METRICS, PROVENANCE, WorkerOrder
from harness.engines.base import Completion, Engine, Prompt
from harness.measure import records
from harness.measure.provenance import provenance
from harness.measure.records import RequestRecord, TelemetryRecord
from workloads import file as workload_file
from workloads.file import Request

_REPORTS = 4
_WARM_UP_REQUESTS = 3


def measure(order: WorkerOrder, report: Callable[[str], object]) -> None:
    """Start an engine, send it the workload, and write the cell's files.

    Args:
        order: The cell, and where everything is.
        report: Called with a line on the progress now and then.

    """
    # Here, since the import decides on threads and devices, and takes seconds.
    from harness.engines.vllm import VLLM

    spec, folder = order.spec, order.folder
    workload = workload_file.read(order.workload)
    tokenizer, _ = models.load_tokenizer(order.model)
    prompts = [
        Prompt(tokenizer.encode(workload.prompt(request)), request.output_tokens)
        for request in workload.requests
    ]
    longest = workload.longest
    engine = VLLM(spec, order.model, longest.prompt_tokens + longest.output_tokens)
    report(f"engine ready, {len(prompts)} requests to go")
    _warm_up(engine, prompts, tokenizer.vocab_size, spec.seed)

    before = engine.counters()
    rows: list[RequestRecord] = []
    telemetry: list[TelemetryRecord] = []
    reports = {len(prompts) * i // _REPORTS for i in range(1, _REPORTS + 1)}
    for batch in _batches(workload.requests, spec.batch_size):
        completions = engine.generate([prompts[request.request] for request in batch])
        end_ns = time.monotonic_ns()
        rows += [_record(*pair, end_ns) for pair in zip(batch, completions, strict=True)]
        telemetry.append(_telemetry(batch[-1].request, engine))
        if reports & {request.request + 1 for request in batch}:
            hit_rate = sum(r.cached_tokens for r in rows) / sum(r.prompt_tokens for r in rows)
            report(f"{len(rows)}/{len(prompts)} requests, hit rate {hit_rate:.3f}")
    summary = records.summarize(spec, rows, before, engine.counters())

    records.write_requests(folder, rows)
    records.write_telemetry(folder, telemetry)
    (folder / METRICS).write_text(engine.metrics_text())
    source = provenance(
        spec,
        model=order.model,
        workload=order.workload,
        patches_sha256=order.patches_sha256,
        engine_version=engine.version,
        engine_file=engine.imported_from,
    )
    (folder / PROVENANCE).write_text(json.dumps(source, indent=2) + "\n")
    records.write_summary(folder, summary)


def _warm_up(engine: Engine, prompts: Sequence[Prompt], vocabulary: int, seed: int) -> None:
    """Run prompts of the workload's lengths that share nothing with it, then forget them."""
    rng = random.Random(f"{seed}/warm-up")
    by_length = sorted(len(prompt.token_ids) for prompt in prompts)
    for i in range(_WARM_UP_REQUESTS):
        length = by_length[(len(by_length) - 1) * i // (_WARM_UP_REQUESTS - 1)]
        engine.generate([Prompt(rng.choices(range(vocabulary), k=length), 1)])
    engine.reset_cache()


def _batches(requests: Sequence[Request], size: int) -> Iterator[Sequence[Request]]:
    return (requests[start : start + size] for start in range(0, len(requests), size))


def _record(request: Request, completion: Completion, end_ns: int) -> RequestRecord:
    return RequestRecord(
        request=request.request,
        session=None,
        turn=None,
        window=request.window,
        scheduled_ns=None,
        sent_ns=completion.arrived_ns,
        first_byte_ns=None,
        first_token_ns=completion.first_token_ns,
        end_ns=end_ns,
        prompt_tokens=completion.prompt_tokens,
        cached_tokens=completion.cached_tokens,
        output_tokens=completion.output_tokens,
        queried_blocks=completion.queried_blocks,
        cached_blocks=completion.cached_blocks,
        status="ok",
        error=None,
    )


def _telemetry(request: int, engine: Engine) -> TelemetryRecord:
    state = engine.policy_state() or {}
    counts = {
        name: int(state[name]) if name in state else None
        for name in ("t1", "t2", "b1", "b2", "evictions")
    }
    return TelemetryRecord(request=request, p=state.get("p"), **counts)
