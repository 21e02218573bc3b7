"""The patched policies on a real CPU engine: what they keep, and that they change no token."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest


pytestmark = pytest.mark.engine

# Whole blocks of the document in support/hot_and_scan.py.
_DOCUMENT_TOKENS = 20 * 32
# Each takes a core and half a gigabyte.
_AT_A_TIME = 2
_RUNS = ["off", "lru", "arc", "dbl", "slru", "s3fifo"]


@pytest.fixture(scope="module")
def runs(tiny_model: Path, engine_tree: Path, root: Path) -> dict[str, dict[str, Any]]:
    """What became of the same requests under each policy, and what the engine logged."""

    def run(policy: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "support.hot_and_scan", str(tiny_model), policy],
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join([str(engine_tree), str(root / "tests")]),
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "VLLM_NO_USAGE_STATS": "1",
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result | {"log": done.stdout + done.stderr}

    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        return dict(zip(_RUNS, threads.map(run, _RUNS), strict=True))


def test_scan_does_not_cost_the_hot_document_but_under_lru(
    runs: dict[str, dict[str, Any]],
) -> None:
    kept = {policy: run["cached"][-1] for policy, run in runs.items()}
    whole = _DOCUMENT_TOKENS
    assert kept == {"off": 0, "lru": 0, **dict.fromkeys(_RUNS[2:], whole)}


def test_no_policy_changes_a_token(runs: dict[str, dict[str, Any]]) -> None:
    for policy in _RUNS[1:]:
        assert runs[policy]["tokens"] == runs["off"]["tokens"], policy


def test_start_up_log_names_the_policy(runs: dict[str, dict[str, Any]]) -> None:
    for policy in _RUNS[1:]:
        assert f"Prefix cache eviction policy: {policy}" in runs[policy]["log"]
