"""What the eviction policies cost: the patched engine against stock, and each against `lru`.

Every time is given as a ratio to another that was measured in turn with it, in the same run.
"""

import json
import statistics
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from harness import patching, upstream
from harness.bench import process, results
from harness.bench.results import Result
from harness.errors import HarnessError
from harness.policies import POLICIES

_CACHE_BLOCKS = 3125  # the paper's smallest cache, 50k tokens
_REQUESTS, _REPETITIONS, _ROUNDS = 1024, 3, 5
# One differs from the next by 2 % where both engines are the same; the target is 1 %.
_STOCK_ROUNDS = 15
# Caches of so many blocks, with as many documents for each block as at the paper's 50k tokens.
_GROWTH_BLOCKS = (1_000, 10_000, 100_000)
_GROWTH_ROUNDS = 3
# Flat: a cost that grew with the logarithm of the blocks would come to 5 / 3.
_FLAT = 1.25
_DOCUMENTS = 381  # of QuALITY
_GHOSTS = 100_000
_POOL_ROUNDS, _POOL_ITERATIONS = 7, 2000
# In 0.32.0 vLLM's script does not give BlockPool its hash_block_size, which it must have.
_RUN_POOL_BENCHMARK = """
import functools, os, runpy, sys
from vllm.v1.core import block_pool
block_pool.BlockPool = functools.partial(block_pool.BlockPool, hash_block_size=16)
del sys.argv[0]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


_POLICIES = [name for name, policy in POLICIES.items() if not policy.is_ablation]
Work = Literal["prefill", "decode", "hybrid"]
# CPU time over that of the patched lru, at most.
_TARGETS: dict[Work, dict[str, float]] = {
    "prefill": {"arc": 1.08, "dbl": 1.08, "slru": 1.03, "s3fifo": 1.15, "alrfu": 1.10},
    "decode": {"arc": 1.08, "dbl": 1.08, "slru": 1.03, "s3fifo": 1.15, "alrfu": 1.08},
    "hybrid": {"arc": 1.12, "dbl": 1.12, "slru": 1.03, "s3fifo": 1.15, "alrfu": 1.12},
}


class Order(BaseModel):
    """What ``harness.bench.scheduling`` is to time.

    ``policies`` in turn at every step, ``repetitions`` times; the policy None is the engine's own.
    ``model`` is the folder of a model, of which only the config is read. ``work`` is "prefill" of
    documents by the whole scheduler, or of what the KV cache manager does by itself: "decode" of
    many requests, "hybrid" prefill of long prompts with four groups of sliding windows beside full
    attention. Of these two only policies and repetitions can be chosen. ``in_turns`` is that other
    processes have their turn after every step (``process.in_turns``).
    """

    work: Work = "prefill"
    model: Path
    policies: list[str | None]
    cache_blocks: int
    requests: int
    repetitions: int
    documents: int
    in_turns: bool = False


class Timing(BaseModel):
    """CPU time of a policy in one repetition: a request, of decode a token of one."""

    policy: str | None
    us_per_request: float


def run(build: Path, output: Path) -> list[Result]:
    """Measure, write the results to a file and return them.

    Args:
        build: Folder for the patched tree and a model's config.
        output: The JSON file.

    Raises:
        HarnessError: if a measuring process fails.

    """
    engine_tree, model = process.prepare(build)
    found = [
        *_upstreams_benchmark(engine_tree),
        *(
            result
            for work in typing.get_args(Work)
            for result in _scheduler(model, engine_tree, work)
        ),
        *_growth(model, engine_tree),
        _ghost(engine_tree),
    ]
    results.write(output, found)
    return found


def _scheduler(model: Path, engine_tree: Path, work: Work) -> list[Result]:
    """CPU time of the scheduler, or its part that manages the cache, without a model."""
    ratios: dict[str, list[float]] = {policy: [] for policy in _POLICIES}
    stock_ratios: list[float] = []
    order = Order(
        work=work,
        model=model,
        policies=_POLICIES,
        cache_blocks=_CACHE_BLOCKS,
        requests=_REQUESTS,
        repetitions=_REPETITIONS,
        documents=_DOCUMENTS,
    )
    for i in range(_STOCK_ROUNDS):
        process.report(f"{work} on stock, round {i + 1} of {_STOCK_ROUNDS}")
        stock_ratios.append(_over_stock(order, engine_tree, is_first=i % 2 == 0))
    for i in range(_ROUNDS):
        process.report(f"{work}, round {i + 1} of {_ROUNDS}")
        patched = _medians(_time(order, engine_tree))
        for policy in _POLICIES:
            ratios[policy].append(patched[policy] / patched["lru"])
    return [
        Result(f"{work}: patched lru / stock", statistics.median(stock_ratios), "ratio", 1.01),
        *(
            Result(
                f"{work}: {policy} / lru",
                statistics.median(ratios[policy]),
                "ratio",
                _TARGETS[work][policy],
            )
            for policy in _TARGETS[work]
        ),
    ]


def _over_stock(order: Order, engine_tree: Path, is_first: bool) -> float:
    """CPU time of the patched `lru` over that of the stock engine, whose turn may come first."""
    trees = {None: None, "lru": engine_tree}
    medians: dict[str | None, float] = {}
    turns = list(trees) if is_first else list(reversed(trees))
    orders = [order.model_copy(update={"policies": [name], "in_turns": True}) for name in turns]
    commands = [(_command(own), trees[name]) for own, name in zip(orders, turns, strict=True)]
    for line in process.in_turns(commands):
        medians |= _medians(_read(line))
    return medians["lru"] / medians[None]


def _growth(model: Path, engine_tree: Path) -> list[Result]:
    """How `arc` / `lru` changes with the size of the cache."""
    ratios: dict[int, list[float]] = {cache_blocks: [] for cache_blocks in _GROWTH_BLOCKS}
    for i in range(_GROWTH_ROUNDS):
        for cache_blocks in _GROWTH_BLOCKS:
            process.report(f"prefill, {cache_blocks} blocks, round {i + 1} of {_GROWTH_ROUNDS}")
            order = Order(
                model=model,
                policies=["lru", "arc"],
                cache_blocks=cache_blocks,
                requests=_REQUESTS // 2,
                repetitions=_REPETITIONS,
                documents=round(_DOCUMENTS * cache_blocks / _CACHE_BLOCKS),
            )
            medians = _medians(_time(order, engine_tree))
            ratios[cache_blocks].append(medians["arc"] / medians["lru"])
    found = [
        Result(f"prefill: arc / lru, {size} blocks", statistics.median(of_size), "ratio")
        for size, of_size in ratios.items()
    ]
    spread = max(result.value for result in found) / min(result.value for result in found)
    name = "prefill: arc / lru, largest / smallest of these"
    return [*found, Result(name, spread, "ratio", _FLAT)]


def _ghost(engine_tree: Path) -> Result:
    code = (
        f"from harness.bench.scheduling import bytes_per_ghost; print(bytes_per_ghost({_GHOSTS}))"
    )
    output = process.output([sys.executable, "-c", code], engine_tree)
    return Result("memory: arc, a ghost (at most one a block)", float(output[-1]), "bytes", 200)


def _upstreams_benchmark(engine_tree: Path) -> list[Result]:
    """VLLM's own benchmark of the block pool, from its source distribution."""
    version = patching.read_manifest(engine_tree)["version"]
    source = upstream.fetch_sdist(version, upstream.SDISTS)
    script = (source / "benchmarks" / "benchmark_block_pool.py").resolve()
    command = [sys.executable, "-c", _RUN_POOL_BENCHMARK, str(script)]
    command += ["--num-iteration", str(_POOL_ITERATIONS)]
    ratios: list[list[float]] = []
    for i in range(_POOL_ROUNDS):
        process.report(f"vLLM's benchmark_block_pool.py, round {i + 1} of {_POOL_ROUNDS}")
        stock, patched = (_grid(process.output(command, tree)) for tree in (None, engine_tree))
        ratios.append(
            [
                p / s
                for p_row, s_row in zip(patched, stock, strict=True)
                for p, s in zip(p_row, s_row, strict=True)
            ]
        )
    medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
    return [
        Result(
            "benchmark_block_pool.py: patched lru / stock, geometric mean",
            statistics.geometric_mean(medians),
            "ratio",
            1.03,
        ),
        Result("benchmark_block_pool.py: patched lru / stock, worst", max(medians), "ratio"),
    ]


def _grid(lines: Sequence[str]) -> list[tuple[float, float]]:
    """Return each row's mean times to get and to free blocks, from the table that it prints."""
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    numbers = [row for row in rows if row[0].strip().isdigit()]
    if not numbers:
        raise HarnessError(f"benchmark_block_pool.py printed no figures: {lines}")
    return [(float(row[3]), float(row[5])) for row in numbers]


def _medians(timings: Sequence[Timing]) -> dict[str | None, float]:
    return {
        policy: statistics.median(t.us_per_request for t in timings if t.policy == policy)
        for policy in {timing.policy for timing in timings}
    }


def _time(order: Order, engine_tree: Path | None) -> list[Timing]:
    return _read(process.output(_command(order), engine_tree)[-1])


def _command(order: Order) -> list[str]:
    return [sys.executable, "-m", "harness.bench.scheduling", order.model_dump_json()]


def _read(line: str) -> list[Timing]:
    return [Timing.model_validate(timing) for timing in json.loads(line)]
