"""Fleets of replaying engines, in this process, on the patched engine."""

import random
from pathlib import Path
from typing import Any

import pytest

from harness.cell import Batch, CellSpec, Fleet
from workloads.file import BlockRequest, BlockWorkload, Header


def _workload(requests: int) -> BlockWorkload:
    """Documents of 10 blocks, popular by Zipf's law, each asked about by two sessions in turn."""
    rng = random.Random("fleet")
    ranks = rng.choices(range(30), [1 / (rank + 1) for rank in range(30)], k=requests)
    header = Header(content="blocks", name="w", seed=1, block_size=16, requests=requests, params={})
    made = (
        BlockRequest(
            request=number,
            session=2 * rank + rng.randrange(2),
            prompt_tokens=165,
            output_tokens=1,
            runs=((10 * rank, 10),),
        )
        for number, rank in enumerate(ranks)
    )
    return BlockWorkload(header, tuple(made))


def _spec(load: Batch | Fleet, cache_blocks: int = 60) -> CellSpec:
    return CellSpec(
        tier="replay",
        engine="replay",
        policy="arc",
        workload="w",
        load=load,
        cache_blocks=cache_blocks,
        block_size=16,
        seed=1,
        model="m",
        dtype="float32",
    )


def _run(model: Path, spec: CellSpec, workload: BlockWorkload) -> tuple[list[int], Any]:
    from harness.measure import offline

    engine = offline._start(spec, str(model), workload)
    size = spec.load.batch_size  # type: ignore[union-attr]
    cached: list[int] = []
    for start in range(0, len(workload.requests), size):
        batch = workload.requests[start : start + size]
        cached += [completion.cached_tokens for completion in engine.generate(batch)]
    assert engine.counters().hit_tokens == sum(cached)
    assert engine.counters().queried_tokens == 165 * len(workload.requests)
    return cached, engine.policy_state()


def test_fleet_of_one_hits_what_the_engine_does(tiny_model: Path) -> None:
    workload = _workload(200)
    alone, state = _run(tiny_model, _spec(Batch(batch_size=4)), workload)
    fleet = Fleet(mode="fleet", batch_size=4, engines=1, router="scored")
    # A share, which would not add up.
    assert state.pop("unreachable") >= 0
    assert _run(tiny_model, _spec(fleet), workload) == (alone, {**state, "busiest": 1.0})
    assert sum(alone) > 0


def test_engines_of_a_fleet_share_nothing(tiny_model: Path) -> None:
    workload = _workload(201)
    fleet = Fleet(mode="fleet", engines=3, router="round-robin")
    cached, state = _run(tiny_model, _spec(fleet), workload)
    expected = [0] * 201
    for first in range(3):
        own = workload.requests[first::3]
        expected[first::3], _ = _run(
            tiny_model,
            _spec(Batch(batch_size=1)),
            BlockWorkload(workload.header.model_copy(update={"requests": len(own)}), own),
        )
    assert cached == expected
    assert state["busiest"] == pytest.approx(1 / 3)


def test_router_that_knows_prefixes_hits_more_than_one_that_does_not(tiny_model: Path) -> None:
    workload = _workload(300)
    hits = {}
    for router in ("round-robin", "session", "prefix-aware", "cache-aware", "scored"):
        fleet = Fleet(mode="fleet", batch_size=2, engines=3, router=router)
        hits[router] = sum(_run(tiny_model, _spec(fleet), workload)[0])
    assert hits["round-robin"] < hits["session"]
    assert hits["session"] < min(hits["prefix-aware"], hits["cache-aware"], hits["scored"])
