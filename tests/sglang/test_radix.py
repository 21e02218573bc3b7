"""The process that times the radix cache, on few requests."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from harness.bench.sglang import Order
from workloads import file
from workloads.file import BlockRequest, BlockWorkload, Header


def test_each_cache_has_its_time(
    run_inside: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    requests = tuple(
        BlockRequest(request=i, prompt_tokens=16 * 8 + 1, output_tokens=1, runs=((i % 5 * 8, 8),))
        for i in range(20)
    )
    header = Header(
        content="blocks", name="w", seed=1, block_size=16, requests=len(requests), params={}
    )
    file.write(tmp_path / "w.jsonl", BlockWorkload(header, requests))
    order = Order(
        workload=tmp_path / "w.jsonl",
        caches=[("lru", "python"), ("arc", "python"), ("lru", "rust")],
        cache_tokens=16 * 24,
        warm_up=4,
        requests=12,
    )
    done = run_inside("-m", "harness.bench.radix", order.model_dump_json())
    assert done.returncode == 0, done.stdout
    times = json.loads(done.stdout.splitlines()[-1])
    assert len(times) == 3
    assert all(1 < us < 100_000 for us in times)
