"""The same cell in tier replay and on a real engine: the same hits, request by request."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from workloads import file
from workloads.blocks import runs
from workloads.file import BlockRequest, BlockWorkload, Header

pytestmark = pytest.mark.engine

_BLOCK_SIZE = 32
_TIERS = ("cpu", "replay")
_CACHE_BLOCKS = 18
_POLICIES = ("lru", "arc", "s3fifo")
_REPLAY = "replay-trace-s1"
_GRID = {
    "workload": "trace",
    "cache_tokens": [_CACHE_BLOCKS * _BLOCK_SIZE],
    "seeds": [1],
}
_CONFIG = {
    "name": "parity",
    "tiers": {
        tier: {"block_size": _BLOCK_SIZE, "threads": 1, "take_turns": tier == "cpu"}
        for tier in _TIERS
    },
    # Its form only: the test writes its own.
    "workloads": {"trace": {"kind": "trace", "dataset": "mooncake", "format": "mooncake"}},
    "experiments": {
        f"{tier}-{batch_size}": _GRID
        | {
            "tier": tier,
            "policies": list(policies),
            "loads": [{"mode": "batch", "batch_size": batch_size}],
        }
        for tier in _TIERS
        for batch_size, policies in ((1, ("arc",)), (6, _POLICIES))
    },
}


def _workload() -> BlockWorkload:
    """Return families of prompts that begin alike, and outputs long enough to fill blocks."""
    rng = random.Random("parity")
    ids: dict[tuple[object, ...], int] = {}
    requests = []
    for number in range(42):
        family = min(rng.randrange(6), rng.randrange(6))
        shared = [(family, i) for i in range(rng.randrange(1, 2 + family))]
        names = [*shared, *((number, "own", i) for i in range(rng.randrange(0, 3)))]
        blocks = [ids.setdefault(tuple(names[: i + 1]), len(ids)) for i in range(len(names))]
        requests.append(
            BlockRequest(
                request=number,
                prompt_tokens=_BLOCK_SIZE * len(blocks) + rng.randrange(1, _BLOCK_SIZE),
                output_tokens=rng.randrange(1, 36),
                runs=runs(blocks),
            )
        )
    header = Header(
        content="blocks",
        name="trace",
        seed=1,
        block_size=_BLOCK_SIZE,
        requests=len(requests),
        warm_up=12,
        params={},
    )
    return BlockWorkload(header, tuple(requests))


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, engine_tree: Path, root: Path
) -> Path:
    """Measure every cell of the config."""
    folder = tmp_path_factory.mktemp("parity")
    (folder / "parity.yaml").write_text(yaml.safe_dump(_CONFIG))
    file.write(folder / "w.jsonl", _workload())
    run = subprocess.run(
        [
            *(sys.executable, "-m", "support.one_process", folder / "parity.yaml"),
            *(tiny_model, folder / "w.jsonl", folder),
        ],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(map(str, (engine_tree, root, root / "tests"))),
            "PYTHONHASHSEED": "0",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


@pytest.mark.parametrize(("policy", "batch_size"), [("arc", 1), *((p, 6) for p in _POLICIES)])
def test_same_hits_and_same_state_after_every_batch(
    folder: Path, policy: str, batch_size: int
) -> None:
    setting = f"trace-batch{batch_size}-{_CACHE_BLOCKS * _BLOCK_SIZE}-s1"
    real = folder / setting / f"{setting}-vllm-{policy}"
    replayed = folder / _REPLAY / f"{setting}-replay-{policy}"
    columns = ["request", "warm_up", "prompt_tokens", "cached_tokens", "output_tokens"]
    columns += ["queried_blocks", "cached_blocks"]
    measured, repeated = (
        pd.read_parquet(cell / "requests.parquet")[columns] for cell in (real, replayed)
    )
    pd.testing.assert_frame_equal(measured, repeated)
    assert measured["cached_tokens"].sum() > 0
    states = [pd.read_parquet(cell / "telemetry.parquet") for cell in (real, replayed)]
    # What a replay alone counts.
    pd.testing.assert_frame_equal(states[0], states[1].drop(columns="unreachable"))

    summaries: list[dict[str, Any]] = [
        json.loads((cell / "summary.json").read_text()) for cell in (real, replayed)
    ]
    for key in ("hit_rate", "hit_rate_per_block", "hit_tokens", "queried_tokens", "requests"):
        assert summaries[0][key] == summaries[1][key]
    assert all(summary["valid"] for summary in summaries), summaries
    assert summaries[0]["warm_up_requests"] == 12


@pytest.mark.parametrize("policy", _POLICIES)
def test_the_cache_is_tight_enough_to_preempt(folder: Path, policy: str) -> None:
    (real,) = folder.glob(f"trace-batch6-*/*-vllm-{policy}")
    lines = (real / "metrics.prom").read_text().splitlines()
    (preemptions,) = (line for line in lines if line.startswith("vllm:num_preemptions_total{"))
    assert float(preemptions.rpartition(" ")[2]) > 0


def test_a_replay_has_no_clock(folder: Path) -> None:
    (cell,) = (folder / _REPLAY).glob("*-batch1-*-arc")
    assert {path.name for path in cell.iterdir()} == {
        "requests.parquet",
        "telemetry.parquet",
        "summary.json",
        "provenance.json",
    }
    requests = pd.read_parquet(cell / "requests.parquet")
    assert requests[["sent_ns", "first_token_ns", "end_ns"]].isna().all(axis=None)
    assert json.loads((cell / "summary.json").read_text())["ttft_kind"] is None
