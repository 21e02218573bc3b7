"""Cells on a real CPU engine, through the command that the DAG runs."""

import subprocess
import sys
from pathlib import Path

import yaml

from harness import config, workload
from harness.load.spec import Batch, Load
from workloads import file

_SINGLE = Batch(batch_size=1)
_DOCQA = {"tier": "cpu", "workload": "docqa", "cache_tokens": [25_000], "seeds": [1]}
_CONFIG = {
    "name": "test",
    "tiers": {"cpu": {"block_size": 32, "scale": 0.05}},
    "workloads": {"docqa": {"kind": "docqa", "documents": 30, "requests": 80, "window": 40}},
    "experiments": {
        "patched": _DOCQA | {"policies": ["lru", "dbl", "arc"]},
        "batch": _DOCQA
        | {
            "policies": ["arc"],
            "cache_tokens": [100_000],
            "loads": [{"mode": "batch", "batch_size": 8}],
        },
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
    """A folder with a config, a model and a workload; measures cells in it, each once."""

    def __init__(self, folder: Path, tiny_model: Path, engine_tree: Path) -> None:
        self.folder, self.model, self.tree = folder, tiny_model, engine_tree
        self.config = folder / "test.yaml"
        self.config.write_text(yaml.safe_dump(_CONFIG))
        parsed = config.load(self.config)
        self.cells = parsed.cells
        self.workload = folder / "w.jsonl"
        file.write(self.workload, workload.build(parsed, "cpu", "docqa", 1, str(tiny_model)))

    def cell(self, engine: str, policy: str, load: Load = _SINGLE) -> str:
        return next(
            name
            for name, spec in self.cells.items()
            if (spec.engine, spec.policy, spec.load) == (engine, policy, load)
        )

    def run(
        self, cell: str, output: Path, workload: Path | None = None
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self._command(cell, output, workload), capture_output=True, text=True, check=False
        )

    def start(self, engine: str, policy: str, load: Load, output: Path) -> "subprocess.Popen[str]":
        command = self._command(self.cell(engine, policy, load), output, None)
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def measure(self, engine: str, policy: str, load: Load = _SINGLE, again: bool = False) -> Path:
        cell = self.cell(engine, policy, load)
        output = self.folder / (f"{cell}-again" if again else cell)
        if not output.exists():
            run = self.run(cell, output)
            assert run.returncode == 0, run.stderr
        return output

    def _command(self, cell: str, output: Path, workload: Path | None) -> list[str]:
        tree = [] if "-vllm-stock-" in cell else ["--engine-tree", str(self.tree)]
        return [
            *(sys.executable, "-m", "harness", "cell", str(self.config), cell),
            *("--model", str(self.model), "--workload", str(workload or self.workload)),
            *("--output", str(output), *tree),
        ]
