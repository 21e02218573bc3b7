"""The main job by env/profiles/slurm on a real Slurm, whose jobs and runs are ended in every way.

Minutes, so not among the tests of `make test`: `make test-slurm`.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest
import yaml
from support import slurm
from support.processes import wait_for

from harness import config

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]

_PROFILE = "env/profiles/slurm"
_REQUESTS = 40
_SIZES = {"block_size": 32, "scale": 0.0625, "requests": _REQUESTS}
_EXPERIMENT = {"workload": "docqa", "policies": ["lru", "arc"], "cache_tokens": [20_000]}
_CONFIG = {
    "name": "test",
    "tiers": {"replay": _SIZES, "cpu": {"dtype": "float32", "threads": 1, **_SIZES}},
    "workloads": {"docqa": {"kind": "docqa", "documents": 12, "requests": 40, "window": 12}},
    "experiments": {tier: {"tier": tier, **_EXPERIMENT} for tier in ("replay", "cpu")},
}
_RESULTS = "results/test"
# The comment of a job with engines, before the name of its cell.
_ENGINES = "rule_engines_wildcards_"


class _Run:
    """A run of Snakemake in a checkout that sends its jobs to a cluster."""

    def __init__(self, checkout: Path, cluster: slurm.Cluster, target: str) -> None:
        self.checkout, self.cluster = checkout, cluster
        # Executors do not quote Python's path in a job's command.
        environment = checkout.parent / "environment"
        environment.is_symlink() or environment.symlink_to(sys.prefix)
        command = [
            *(str(environment / Path(sys.executable).relative_to(sys.prefix)), "-m", "snakemake"),
            *(target, "--configfile", "config/test.yaml", "--workflow-profile", _PROFILE),
            *("--slurm-init-seconds-before-status-checks", "1"),
            *("--seconds-between-status-checks", "1", "--slurm-status-command", "squeue"),
        ]
        self._log = checkout.parent / "snakemake.log"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=checkout,
                env=os.environ | cluster.environment | {"PYTHONPATH": str(checkout)},
                stdout=output,
                stderr=output,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def name(self) -> str:
        """The name of all its jobs."""
        (name,) = re.findall(r"^SLURM run ID: (\S+)$", self.log, re.MULTILINE)
        return str(name)

    def wait_for_cell(self) -> tuple[int, str]:
        """Wait until a cell is being measured; return its job's number, and its name."""
        found: list[tuple[int, str]] = []

        def is_measured() -> bool:
            assert self.process.poll() is None, self.log
            found[:] = [
                (number, comment.removeprefix(_ENGINES))
                for number, state, comment in self.cluster.queue()
                if state == "RUNNING" and comment.startswith(_ENGINES)
            ]
            return any(self._cell_log(cell).exists() for _, cell in found)

        for log in (self.checkout / _RESULTS / "logs").glob("*.log"):
            log.unlink()
        wait_for(is_measured, seconds=300)
        return found[0]

    def _cell_log(self, cell: str) -> Path:
        return self.checkout / _RESULTS / "logs" / f"{cell}.log"

    def states(self) -> list[str]:
        """Return how its jobs have ended."""
        return sorted(job.state for job in self.cluster.ended() if job.run == self.name)


@contextmanager
def _run(checkout: Path, cluster: slurm.Cluster, target: str) -> Iterator[_Run]:
    run = _Run(checkout, cluster, target)
    try:
        yield run
    finally:
        run.process.kill()
        run.process.wait()


def test_nothing_is_lost_whatever_ends_jobs_and_runs(root: Path, checkout: Path) -> None:
    shutil.copytree(root / _PROFILE, checkout / _PROFILE)
    (checkout / "config" / "test.yaml").write_text(yaml.safe_dump(_CONFIG))
    cells = config.load(checkout / "config" / "test.yaml").groups.keys()
    table = f"{_RESULTS}/cells.csv"
    with slurm.cluster() as cluster:
        # On a drained node jobs wait; they run when it is back.
        cluster.update_node("State=DRAIN", "Reason=test")
        with _run(checkout, cluster, table) as run:
            wait_for(lambda: len(cluster.queue()) == 2, seconds=120)
            with pytest.raises(AssertionError, match="waited in vain"):
                wait_for(lambda: any(job[1] != "PENDING" for job in cluster.queue()), seconds=5)
            cluster.update_node("State=RESUME")

            # One job is cancelled; the others go on.
            number, lost = run.wait_for_cell()
            cluster.call("scancel", str(number))
            assert run.process.wait(timeout=600) == 1
            assert "Error in rule engines" in run.log
        _assert_is_over(cluster)
        assert run.states() == ["CANCELLED", *["COMPLETED"] * 4]
        made = _made(checkout)
        assert _measured(made) == cells - {lost}

        # Ctrl-C cancels the jobs.
        with _run(checkout, cluster, table) as run:
            assert run.wait_for_cell()[1] == lost
            run.process.send_signal(signal.SIGINT)
            assert run.process.wait(timeout=120) != 0
        _assert_is_over(cluster)
        assert run.states() == ["CANCELLED"]
        assert _made(checkout) == made

        # Those of a run that was killed are ended by its name.
        with _run(checkout, cluster, table) as run:
            number, _ = run.wait_for_cell()
            run.process.kill()
        assert [job[:2] for job in cluster.queue()] == [(number, "RUNNING")]
        cluster.call("scancel", "--name", run.name)
        _assert_is_over(cluster)
        assert run.states() == ["CANCELLED"]
        assert _made(checkout) == made

        # And the next run does what is missing: the cell, and bounds for the figures.
        with _run(checkout, cluster, "figures") as run:
            assert run.process.wait(timeout=600) == 0, run.log
        _assert_is_over(cluster)
        assert run.states() == ["COMPLETED"] * 2
        assert made.items() <= _made(checkout).items()
        assert _measured(_made(checkout)) == cells
        assert (checkout / _RESULTS / "report.html").exists()

        # Engines asked for half of the node, had all of it, and nothing ran beside.
        alone = [job for job in cluster.ended() if job.cpus == slurm.CPUS]
        assert len(alone) == len(["lru", "arc", "cancelled", "interrupted", "killed"])
        for one, other in combinations(cluster.ended(), 2):
            if one in alone or other in alone:
                assert one.end <= other.start or other.end <= one.start
    results = pd.read_csv(checkout / table)
    assert (results.requests == _REQUESTS).all()
    # Of one workload and size, hits are the same in either tier, if all is whole.
    hits = results.pivot(index="policy", columns="tier", values="hit_rate")
    assert set(hits.index) == {"lru", "arc"}
    assert (hits.cpu == hits.replay).all()
    assert (hits.replay > 0).all()


def _made(checkout: Path) -> dict[Path, int]:
    """Return workloads and measured cells, and when each was made."""
    paths = [*(checkout / "build" / "workloads").rglob("*.jsonl")]
    paths += (checkout / _RESULTS / "cells").glob("[!.]*")
    return {path: path.stat().st_mtime_ns for path in paths}


def _measured(made: dict[Path, int]) -> set[str]:
    return {path.name for path in made if path.suffix != ".jsonl"}


def _assert_is_over(cluster: slurm.Cluster) -> None:
    """Nothing is queued, and nothing that measures is left of a job.

    Snakemake's own process in a job may stay when it is told to end, waiting for itself, and loses
    its parent. That is left to Slurm, which finds it where there are cgroups.
    """
    wait_for(lambda: not cluster.queue())
    wait_for(lambda: not [left for left in cluster.processes().values() if "snakemake" not in left])
