"""How fast tier replay is, what memory it needs, and whether its cost grows with its input.

The grid of figure 3a, one cell of Mooncake's trace and one of a log of a million requests are
measured from outside, as the commands that the DAG runs. CPU time a request is that of
``harness.load.batch``'s loop, with its records and telemetry, without start-up and without writing
files.

Growth is measured on documents that are all as popular as each other. There the cache, larger or
smaller, hardly ever hits (at most 9%), so that a request is the same work at all sizes: some 360
blocks looked up, allocated and evicted. On ``docqa-quality`` a larger cache hits more, which would
hide a part of the growth; and per block newly allocated the cost would seem to grow when it does
not, since most of a request's cost is that of its blocks, new or not.
"""

import json
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from harness import config as configs
from harness.bench import process, results
from harness.bench.process import Cost
from harness.bench.results import Result
from harness.cell import CellSpec
from workloads import datasets

_SEED = 42
_ROUNDS = 3
_SMALL, _LARGE = 50_000, 200_000  # caches, in tokens
_QUALITY, _MOONCAKE = "docqa-quality", "mooncake"
_UNIFORM, _SHORT, _MANY = "docqa-uniform", "docqa-uniform-short", "docqa-uniform-many"
_CONFIG = {
    "name": "bench",
    "tiers": {"replay": {"block_size": 16}},
    "workloads": {
        # The defaults are the paper's: 3,072 requests, of 381 documents.
        _QUALITY: {"kind": "docqa"},
        _UNIFORM: {"kind": "docqa", "zipf_exponent": 0},
        _SHORT: {"kind": "docqa", "zipf_exponent": 0, "requests": 3072 // 4},
        _MANY: {"kind": "docqa", "zipf_exponent": 0, "documents": 381 * 4},
        _MOONCAKE: {"kind": "trace", "dataset": "mooncake", "format": "mooncake"},
    },
    "experiments": {
        name: {
            "tier": "replay",
            "workload": workload,
            "policies": policies,
            "cache_tokens": cache_tokens,
            "seeds": [_SEED],
        }
        for name, workload, policies, cache_tokens in (
            ("grid", _QUALITY, ["lru", "dbl", "arc"], [i * 50_000 for i in range(1, 7)]),
            ("growth", _UNIFORM, ["lru", "arc"], [_SMALL, _LARGE]),
            ("short", _SHORT, ["lru", "arc"], [_SMALL]),
            ("many", _MANY, ["lru", "arc"], [_SMALL]),
            ("mooncake", _MOONCAKE, ["lru"], [3_200_000]),
        )
    },
}
# A log of as many requests, and the blocks of each.
_MILLION, _BLOCKS = 1_000_000, 150
# The most that it may be, in CPU time: 1,000 and 870 requests a second.
_MS_PER_REQUEST: dict[str, float] = {"lru": 1.0, "arc": 1.15}
# A cell to time: its workload, cache and policy.
_Cell = tuple[str, int, str]
# What grows fourfold: the smaller and the larger, each a workload and its cache.
_GROWTH = {
    "cache": ((_UNIFORM, _SMALL), (_UNIFORM, _LARGE)),
    "trace": ((_SHORT, _SMALL), (_UNIFORM, _SMALL)),
    "documents": ((_UNIFORM, _SMALL), (_MANY, _SMALL)),
}
# Flat: a cost in proportion would come to 4, one that grew with the square root to 2.
_FLAT = 1.25


class Order(BaseModel):
    """What ``harness.bench.replaying`` is to time: cells, whose files are by workload.

    ``model`` is the folder of a model, of which only the config is read.
    """

    model: Path
    workloads: dict[str, Path]
    cells: list[CellSpec]


@dataclass(frozen=True)
class _Commands:
    """The harness's own commands, on the config and into the folder of this benchmark."""

    folder: Path
    engine_tree: Path
    model: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.json"

    def workload_file(self, workload: str) -> Path:
        return self.folder / f"{workload}.jsonl"

    def make_workload(self, workload: str) -> Cost:
        process.report(f"making the workload {workload}")
        return process.measure(
            [
                *(sys.executable, "-m", "harness", "workload", str(self.config), "replay"),
                *(workload, str(_SEED), "--model", str(self.model)),
                *("--output", str(self.workload_file(workload))),
            ]
        )

    def replay(self, workload: str) -> Cost:
        process.report(f"replaying the workload {workload}")
        return process.measure(
            [
                *(sys.executable, "-m", "harness", "measure", str(self.config)),
                *(configs.replay_group(workload, _SEED), "--model", str(self.model)),
                *("--workload", str(self.workload_file(workload))),
                *("--engine-tree", str(self.engine_tree)),
                *("--output", str(self.folder / workload)),
            ]
        )


def run(build: Path, output: Path) -> list[Result]:
    """Measure, write the results to a file and return them.

    Without the data set ``mooncake`` its results are left out, which is said on stderr.

    Args:
        build: Folder for the patched tree, a model, and what is run and measured.
        output: The JSON file.

    Raises:
        HarnessError: if a measuring process fails.
        WorkloadError: if a data set ``mooncake`` is there that is not the right one.

    """
    engine_tree, model = process.prepare(build)
    commands = _Commands(build / "replay", engine_tree, model)
    commands.folder.mkdir(exist_ok=True)
    commands.config.write_text(json.dumps(_CONFIG, indent=2) + "\n")
    million = _Commands(build / "million", engine_tree, model)
    found = [*_grid(commands), *_mooncake(commands), *_million(million), *_loop(commands)]
    results.write(output, found)
    return found


def _grid(commands: _Commands) -> list[Result]:
    """Wall time of all cells of one seed, and of making their workload, on one core."""
    costs = [commands.make_workload(_QUALITY), commands.replay(_QUALITY)]
    seconds = sum(cost.seconds for cost in costs)
    return [Result("grid of figure 3a, one seed: wall time", seconds, "s", 90)]


def _mooncake(commands: _Commands) -> list[Result]:
    """Wall time and memory of one cell, the making of its workload not included."""
    if datasets.find("mooncake") is None:
        process.report(
            f"data set mooncake is not in {datasets.data_folder()}: its results are left out"
        )
        return []
    commands.make_workload(_MOONCAKE)
    cost = commands.replay(_MOONCAKE)
    return [
        Result("mooncake, lru: wall time", cost.seconds, "s", 60),
        Result("mooncake, lru: peak resident memory", cost.peak_bytes / 2**30, "GiB", 3),
    ]


def _million(commands: _Commands) -> list[Result]:
    """Memory of a cell of a long log, and of making its workload."""
    commands.folder.mkdir(exist_ok=True)
    log = commands.folder / "log.jsonl"
    workload = {"kind": "trace", "path": str(log), "format": "mooncake", "id_tokens": 16}
    cells = {
        "tier": "replay",
        "workload": "million",
        "policies": ["lru"],
        "cache_tokens": [1_000_000],
        "seeds": [_SEED],
    }
    commands.config.write_text(
        json.dumps(
            _CONFIG | {"workloads": {"million": workload}, "experiments": {"million": cells}}
        )
    )
    process.report(f"writing a log of {_MILLION:,} requests")
    _write_log(log)
    try:
        made, replayed = commands.make_workload("million"), commands.replay("million")
    finally:
        log.unlink()
    name = f"{_MILLION:,} requests of {_BLOCKS} blocks"
    return [
        Result(
            f"{name}, making the workload: peak resident memory", made.peak_bytes / 2**30, "GiB", 2
        ),
        Result(f"{name}, lru: peak resident memory", replayed.peak_bytes / 2**30, "GiB", 2),
        Result(f"{name}, lru: wall time", replayed.seconds, "s"),
    ]


def _write_log(path: Path) -> None:
    """Write requests of which half begin as an earlier one does, more often as a frequent one."""
    rng = random.Random(_SEED)
    prefixes: list[range] = []
    first_new = 0
    with path.open("w") as file:
        for i in range(_MILLION):
            if prefixes and rng.random() < 0.5:
                prefix = prefixes[int(len(prefixes) * rng.random() ** 3)]
            else:
                prefix = range(first_new, first_new + rng.randrange(20, 140))
                prefixes.append(prefix)
                first_new = prefix.stop
            own = range(first_new, first_new + _BLOCKS - len(prefix))
            first_new = own.stop
            line = {
                "timestamp": 10 * i,
                "input_length": 16 * _BLOCKS,
                "output_length": 1,
                "hash_ids": [*prefix, *own],
            }
            file.write(json.dumps(line) + "\n")


def _loop(commands: _Commands) -> list[Result]:
    """CPU time a request, and how it grows, in rounds in which each cell has its turn."""
    for workload in (_UNIFORM, _SHORT, _MANY):
        commands.make_workload(workload)
    places = [(_QUALITY, _SMALL), *(place for pair in _GROWTH.values() for place in pair)]
    times: dict[_Cell, list[float]] = {
        (*place, policy): [] for place in places for policy in _MS_PER_REQUEST
    }
    specs = {
        (spec.workload, spec.cache_tokens, spec.policy): spec
        for spec in configs.load(commands.config).cells.values()
    }
    order = Order(
        model=commands.model,
        workloads={workload: commands.workload_file(workload) for workload, _ in places},
        cells=[specs[cell] for cell in times],
    )
    command = [sys.executable, "-m", "harness.bench.replaying", order.model_dump_json()]
    for i in range(_ROUNDS):
        process.report(f"CPU time a request, round {i + 1} of {_ROUNDS}")
        lines = process.output(command, commands.engine_tree)
        for cell, ms in zip(times, json.loads(lines[-1]), strict=True):
            times[cell].append(ms)
    return [*_speed(times), *_growth(times)]


def _speed(times: Mapping[_Cell, Sequence[float]]) -> list[Result]:
    return [
        Result(
            f"CPU time a request, {policy}",
            statistics.median(times[_QUALITY, _SMALL, policy]),
            "ms",
            target,
        )
        for policy, target in _MS_PER_REQUEST.items()
    ]


def _growth(times: Mapping[_Cell, Sequence[float]]) -> list[Result]:
    return [
        Result(
            f"CPU time a request, {policy}: {what} x 4 / x 1",
            statistics.median(
                large / small
                for small, large in zip(
                    times[*smaller, policy], times[*larger, policy], strict=True
                )
            ),
            "ratio",
            _FLAT,
        )
        for policy in _MS_PER_REQUEST
        for what, (smaller, larger) in _GROWTH.items()
    ]
