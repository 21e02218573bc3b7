"""Cells on a real CPU engine, through the command that the DAG runs."""

import contextlib
import fcntl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from harness import config, workload
from harness.cell import Batch, CellSpec, Load
from workloads import file

_SINGLE = Batch(batch_size=1)
_DOCQA = {"tier": "cpu", "workload": "docqa", "cache_tokens": [25_000], "seeds": [1]}
_CONFIG = {
    "name": "test",
    "tiers": {"cpu": {"block_size": 32, "scale": 0.05, "take_turns": True}},
    "workloads": {"docqa": {"kind": "docqa", "documents": 30, "requests": 80, "window": 40}},
    "experiments": {
        "patched": _DOCQA | {"policies": ["lru", "arc"]},
        "again": _DOCQA | {"policies": ["arc"], "repeats": 2},
        "alone": _DOCQA | {"policies": ["arc"], "seeds": [2]},
        "stock": _DOCQA | {"engine": "vllm-stock", "policies": ["lru"]},
        "server": _DOCQA
        | {
            "policies": ["arc"],
            "loads": [
                {"mode": "batch-http", "batch_size": 1},
                {"mode": "open-loop", "request_rate": 2},
            ],
        },
        "stock-server": _DOCQA
        | {
            "engine": "vllm-stock",
            "policies": ["lru"],
            "loads": [{"mode": "open-loop", "request_rate": 10}],
        },
    },
}


class Bench:
    """A folder with a config, a model and a workload; measures groups of cells in it, each once.

    The folder is shared by all workers of a session.
    """

    # Of one cell, for tests that run it themselves.
    alone = "docqa-batch1-1248-s2"

    def __init__(self, folder: Path, tiny_model: Path, engine_tree: Path) -> None:
        self.folder, self.model, self.tree = folder, tiny_model, engine_tree
        self.config, self.workload = folder / "test.yaml", folder / "w.jsonl"
        self.workload_of_alone = folder / "w2.jsonl"
        folder.mkdir(exist_ok=True)
        with self._locked("lock"):
            if not self.config.exists():
                self.config.write_text(yaml.safe_dump(_CONFIG))
            parsed = config.load(self.config)
            for seed, path in ((1, self.workload), (2, self.workload_of_alone)):
                if not path.exists():
                    built = workload.build(parsed, "cpu", "docqa", seed, str(tiny_model))
                    file.write(path, built)
        self._groups, self._cells = parsed.groups, parsed.cells.values()

    def cell(self, engine: str, policy: str, load: Load = _SINGLE, repeat: int = 0) -> CellSpec:
        return next(
            spec
            for spec in self._cells
            if (spec.engine, spec.policy, spec.load, spec.seed) == (engine, policy, load, 1)
            and spec.repeat == repeat
        )

    def measure(self, engine: str, policy: str, load: Load = _SINGLE, repeat: int = 0) -> Path:
        spec = self.cell(engine, policy, load, repeat)
        output = self.folder / spec.ring
        with self._locked(f"{spec.ring}.lock"):
            if not output.exists():
                run = self.run(spec.ring, output)
                assert run.returncode == 0, run.stderr
        return output / spec.id

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.folder / name).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def run(
        self, group: str, output: Path, workload: Path | None = None
    ) -> "subprocess.CompletedProcess[str]":
        command = self._command(group, output, workload or self.workload)
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def start(self, group: str, output: Path) -> "subprocess.Popen[str]":
        command = self._command(group, output, self.workload)
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def _command(self, group: str, output: Path, workload: Path) -> list[str]:
        engines = {spec.engine for spec in self._groups[group].values()}
        tree = [] if engines == {"vllm-stock"} else ["--engine-tree", str(self.tree)]
        return [
            *(sys.executable, "-m", "harness", "measure", str(self.config), group),
            *("--model", str(self.model), "--workload", str(workload)),
            *("--output", str(output), *tree),
        ]
