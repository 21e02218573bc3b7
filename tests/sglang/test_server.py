"""SGLang's own server as it fails: one message, and nothing left of it.

What all engines' servers have in common is in tests/engines/test_server.py, with a stand-in.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml
from support.processes import is_running, wait_for

from harness import patching
from workloads import file
from workloads.file import BlockRequest, BlockWorkload, Header

Start = Callable[[Path], "subprocess.Popen[str]"]

pytestmark = pytest.mark.engine

_PAGE_SIZE, _REQUESTS = 32, 40
_CONFIG = {
    "name": "failing",
    "tiers": {"cpu": {"block_size": _PAGE_SIZE, "threads": 1}},
    # Its form only: the test writes its own.
    "workloads": {"trace": {"kind": "trace", "dataset": "mooncake", "format": "mooncake"}},
    "experiments": {
        "server": {
            "tier": "cpu",
            "engine": "sglang",
            "workload": "trace",
            "policies": ["arc"],
            "cache_tokens": [32 * _PAGE_SIZE],
            "loads": [{"mode": "open-loop", "request_rate": 2}],
            "seeds": [1],
        }
    },
}
_CELL = f"trace-open-loop-poisson-r2-{32 * _PAGE_SIZE}-s1-sglang-arc"


def _workload() -> BlockWorkload:
    requests = tuple(
        BlockRequest(request=i, prompt_tokens=_PAGE_SIZE + 1, output_tokens=1, runs=((i, 1),))
        for i in range(_REQUESTS)
    )
    header = Header(
        content="blocks",
        name="trace",
        seed=1,
        block_size=_PAGE_SIZE,
        requests=_REQUESTS,
        params={},
    )
    return BlockWorkload(header, requests)


@pytest.fixture
def start(tmp_path: Path, tiny_model: Path, root: Path) -> Iterator[Start]:
    """Start to measure a cell on a tree; it ends with the test."""
    started = []

    def start(tree: Path) -> "subprocess.Popen[str]":
        (tmp_path / "failing.yaml").write_text(yaml.safe_dump(_CONFIG))
        file.write(tmp_path / "w.jsonl", _workload())
        command = [sys.executable, "-m", "harness", "measure", tmp_path / "failing.yaml", _CELL]
        command += ["--model", tiny_model, "--workload", tmp_path / "w.jsonl"]
        command += ["--engine-tree", tree, "--output", tmp_path / "cells" / "c"]
        process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.wait()


def test_option_of_the_patches_on_the_stock_package(
    start: Start, sglang_series: Path, sglang_python: Path, tmp_path: Path
) -> None:
    series = replace(patching.read_series(sglang_series), patches=(), base_hashes={})
    patching.build(series, tmp_path / "stock")
    process = start(tmp_path / "stock")
    _, said = process.communicate()
    assert process.returncode == 1
    first, *log = said.splitlines()
    assert first.startswith("error: cell c: the server died with exit code 2 before it was healthy")
    assert "make it anew (`harness patch build`)" in first
    assert "argument --radix-eviction-policy: invalid choice: 'arc'" in log[-1]
    assert "usage:" not in said
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["c.failed.log"]


def test_scheduler_that_dies_under_load_ends_the_cell_with_its_log(
    start: Start, sglang_tree: Path, tmp_path: Path
) -> None:
    process = start(sglang_tree)
    assert process.stderr is not None
    said = ""
    while "server ready" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    left = psutil.Process(process.pid).children(recursive=True)
    (scheduler,) = (child for child in left if child.name().startswith("sglang::sched"))
    # A quarter of them was answered: it is under load.
    assert "requests answered" in process.stderr.readline()
    scheduler.kill()
    said += process.stderr.read()
    assert process.wait(180) == 1
    assert "error: cell c: the server" in said
    assert "while requests were under way. Last lines of its log" in said
    assert 'Traceback (most recent call last):\n  File "<' not in said
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["c.failed.log"]
    wait_for(lambda: not any(is_running(child.pid) for child in left))
