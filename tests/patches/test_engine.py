"""The patched policies on a real CPU engine: what they keep, and that they change no token."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = pytest.mark.engine

# Whole blocks of the document in support/hot_and_scan.py.
_DOCUMENT_TOKENS = 20 * 32
_POLICIES = ["off", "lru", "arc", "dbl", "slru", "s3fifo", "alrfu"]


class _Ran(NamedTuple):
    """What became of the same requests under each policy, and what the engines logged."""

    outcomes: dict[str, dict[str, Any]]
    log: str


@pytest.fixture(scope="module")
def ran(tiny_model: Path, engine_tree: Path, root: Path) -> _Ran:
    done = subprocess.run(
        [sys.executable, "-m", "support.hot_and_scan", str(tiny_model), *_POLICIES],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(engine_tree), str(root / "tests")]),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return _Ran(json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr)


def test_scan_does_not_cost_the_hot_document_but_under_lru(ran: _Ran) -> None:
    kept = {policy: outcome["cached"][-1] for policy, outcome in ran.outcomes.items()}
    # ALRFU is LRU until it has seen another order hit more.
    as_lru = ("off", "lru", "alrfu")
    assert kept == {policy: 0 if policy in as_lru else _DOCUMENT_TOKENS for policy in _POLICIES}


def test_no_policy_changes_a_token(ran: _Ran) -> None:
    for policy in _POLICIES[1:]:
        assert ran.outcomes[policy]["tokens"] == ran.outcomes["off"]["tokens"], policy


def test_start_up_log_names_the_policy(ran: _Ran) -> None:
    named = re.findall("Prefix cache eviction policy: (\\w+)", ran.log)
    assert list(dict.fromkeys(named)) == _POLICIES[1:]
