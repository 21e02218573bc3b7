"""A cell on SGLang's server and the same cell in tier replay: the same hits, request by request."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from workloads import file
from workloads.blocks import runs
from workloads.file import BlockRequest, BlockWorkload, Header

pytestmark = pytest.mark.engine

_PAGE_SIZE = 32
_PAGES = 24
_GRID = {
    "workload": "trace",
    "policies": ["arc"],
    "cache_tokens": [_PAGES * _PAGE_SIZE],
    "seeds": [1],
}
_CONFIG = {
    "name": "parity",
    "tiers": {tier: {"block_size": _PAGE_SIZE, "threads": 1} for tier in ("cpu", "replay")},
    # Its form only: the test writes its own.
    "workloads": {"trace": {"kind": "trace", "dataset": "mooncake", "format": "mooncake"}},
    "experiments": {
        "server": _GRID
        | {
            "tier": "cpu",
            "engine": "sglang",
            "loads": [{"mode": "batch-http", "batch_size": 1}],
        },
        "replay": _GRID | {"tier": "replay", "engine": "sglang-replay"},
    },
}
_SERVER = f"trace-batch-http1-{_PAGES * _PAGE_SIZE}-s1-sglang-arc"
_REPLAY = f"trace-batch1-{_PAGES * _PAGE_SIZE}-s1-sglang-replay-arc"


def _workload() -> BlockWorkload:
    """Return prompts that begin alike, and outputs long enough to fill pages."""
    rng = random.Random("parity")
    ids: dict[tuple[object, ...], int] = {}
    requests = []
    for number in range(60):
        family = min(rng.randrange(5), rng.randrange(5))
        shared = [(family, i) for i in range(rng.randrange(1, 4 + family))]
        names = [*shared, *((number, "own", i) for i in range(rng.randrange(0, 3)))]
        blocks = [ids.setdefault(tuple(names[: i + 1]), len(ids)) for i in range(len(names))]
        requests.append(
            BlockRequest(
                request=number,
                prompt_tokens=_PAGE_SIZE * len(blocks) + rng.randrange(1, _PAGE_SIZE),
                output_tokens=rng.choice((1, 1, 40)),
                runs=runs(blocks),
            )
        )
    header = Header(
        content="blocks",
        name="trace",
        seed=1,
        block_size=_PAGE_SIZE,
        requests=len(requests),
        params={},
    )
    return BlockWorkload(header, tuple(requests))


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, root: Path, sglang_tree: Path
) -> Path:
    """Measure both cells."""
    folder = tmp_path_factory.mktemp("parity")
    (folder / "parity.yaml").write_text(yaml.safe_dump(_CONFIG))
    file.write(folder / "w.jsonl", _workload())
    for group in (_SERVER, "replay-trace-s1-sglang"):
        command = [sys.executable, "-m", "harness", "measure", folder / "parity.yaml", group]
        command += ["--model", tiny_model, "--workload", folder / "w.jsonl"]
        command += ["--engine-tree", sglang_tree, "--output", folder / group]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder


def test_same_hits_in_every_request(folder: Path) -> None:
    cells = folder / _SERVER, folder / "replay-trace-s1-sglang" / _REPLAY
    columns = ["request", "prompt_tokens", "cached_tokens", "output_tokens"]
    served, replayed = (pd.read_parquet(cell / "requests.parquet")[columns] for cell in cells)
    pd.testing.assert_frame_equal(served, replayed)
    summaries = [json.loads((cell / "summary.json").read_text()) for cell in cells]
    assert all(summary["valid"] for summary in summaries), summaries
    assert summaries[0]["hit_tokens"] == summaries[1]["hit_tokens"] > 0


def test_state_of_arc_is_seen_from_outside(folder: Path) -> None:
    cells = folder / _SERVER, folder / "replay-trace-s1-sglang" / _REPLAY
    served, replayed = (pd.read_parquet(cell / "telemetry.parquet") for cell in cells)
    assert list(served.columns) == list(replayed.columns)
    assert list(served["request"]) == list(replayed["request"])
    assert {"t1", "t2", "b1", "b2", "p", "evictions"} < set(served.columns)
    # The server is asked as an answer comes: what happens at its end is a moment later.
    assert served["evictions"].iloc[-1] > 0
