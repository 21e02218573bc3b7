"""What ARC costs in SGLang's radix cache: CPU time of a request, as a ratio to that of `lru`.

Timed is what the scheduler does with the cache for a request: it looks the request up, evicts for
it, gives it its slots, inserts it and releases it. There is no model. The requests are the paper's.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from harness import patching
from harness.bench import process, results
from harness.bench.results import Result
from harness.engines import registry

_CACHE_TOKENS = 50_000  # the paper's smallest
_WARM_UP, _REQUESTS, _ROUNDS = 512, 1024, 5
_WORKLOAD, _SEED = "docqa-quality", 42
_CONFIG = {
    "name": "bench",
    "tiers": {"replay": {"block_size": 16}},
    # The defaults are the paper's.
    "workloads": {_WORKLOAD: {"kind": "docqa"}},
    "experiments": {
        "cost": {
            "tier": "replay",
            "engine": "sglang-replay",
            "workload": _WORKLOAD,
            "policies": ["lru", "arc"],
            "cache_tokens": [_CACHE_TOKENS],
        }
    },
}
# Policies, each with the core of the tree. ARC's is in Python.
_LRU, _ARC, _COMPILED = ("lru", "python"), ("arc", "python"), ("lru", "rust")
_TARGET = 1.3


class Order(BaseModel):
    """What ``harness.bench.radix`` is to time: policies with their cores, in turn.

    Of the workload's first ``warm_up`` + ``requests`` requests the last ``requests`` count.
    """

    workload: Path
    caches: Sequence[tuple[str, str]]
    cache_tokens: int
    warm_up: int
    requests: int


def run(build: Path, output: Path) -> list[Result]:
    """Measure, write the results to a file and return them.

    Without SGLang's environment there are none, which is said on stderr.

    Args:
        build: Folder for the patched tree, a model's tokenizer and the workload.
        output: The JSON file.

    Raises:
        HarnessError: if the patches do not fit the installed package, or a measuring process fails.

    """
    kind = registry.ENGINES["sglang-replay"]
    if lacking := kind.lacks("replay"):
        process.report(f"{lacking}: its results are left out")
        return []
    engine_tree = build / "sglang"
    patching.ensure(patching.find_series(folder=patching.PATCHES.with_name("sglang")), engine_tree)
    order = Order(
        workload=_make_workload(build),
        caches=[_LRU, _ARC, _COMPILED],
        cache_tokens=_CACHE_TOKENS,
        warm_up=_WARM_UP,
        requests=_REQUESTS,
    )
    command = [kind.python, "-m", "harness.bench.radix", order.model_dump_json()]
    rounds = []
    for i in range(_ROUNDS):
        process.report(f"SGLang's radix cache, round {i + 1} of {_ROUNDS}")
        rounds.append(json.loads(process.output(command, engine_tree)[-1]))
    found = _ratios(rounds)
    results.write(output, found)
    return found


def _make_workload(build: Path) -> Path:
    config, path = build / "sglang.json", build / "sglang.jsonl"
    config.write_text(json.dumps(_CONFIG, indent=2) + "\n")
    command = [sys.executable, "-m", "harness", "workload", str(config), "replay", _WORKLOAD]
    command += [str(_SEED), "--model", str(process.make_model(build)), "--output", str(path)]
    process.output(command)
    return path


def _ratios(rounds: Sequence[tuple[float, float, float]]) -> list[Result]:
    """Return the medians over rounds of what the three caches' times are to each other."""
    against_same = statistics.median(arc / lru for lru, arc, _ in rounds)
    against_compiled = statistics.median(arc / compiled for _, arc, compiled in rounds)
    return [
        Result("SGLang: arc / lru, both cores in Python", against_same, "ratio", _TARGET),
        Result("SGLang: arc / lru on the compiled core", against_compiled, "ratio"),
    ]
