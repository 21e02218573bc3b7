"""Batches: as many requests together as the batch size says, the next when all have finished."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from harness.cell import Batch, Fleet
from harness.disturbance import Watch
from harness.engines.base import Completion, Engine
from harness.turns import Turns
from workloads.file import Request, Workload


def drive(
    engine: Engine[Any],
    workload: Workload,
    load: Batch | Fleet,
    turns: Turns,
    watch: Watch,
    done: Callable[[Sequence[Request], Sequence[Completion]], object],
) -> None:
    """Give an engine in process, or a fleet of them, batch after batch.

    Args:
        engine: It.
        workload: What.
        load: How.
        turns: Offered after each batch.
        watch: Told of each.
        done: Called with each and what became of it.

    """
    for batch in batches(workload.requests, load.batch_size, workload.header.warm_up):
        with watch.turn(batch[0].request):
            completions = engine.generate(batch)
        done(batch, completions)
        # After the last, too: what is left to do would cost the others time.
        turns.offer()


def batches(requests: Sequence[Request], size: int, warm_up: int) -> Iterator[Sequence[Request]]:
    """Cut requests into batches, none of which has both warm-up requests and others."""
    for part in (requests[:warm_up], requests[warm_up:]):
        yield from (part[start : start + size] for start in range(0, len(part), size))
