"""Where a cell's numbers come from: code, patches, engine, model, hardware, time."""

import hashlib
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from harness import git, nvidia, patching
from harness import model as models
from harness.cell import CellSpec
from harness.measure.order import WorkerOrder

_ROOT = Path(__file__).parents[2]


def provenance(
    spec: CellSpec,
    order: WorkerOrder,
    *,
    engine_version: str,
    engine_file: str,
) -> dict[str, Any]:
    """Return the content of ``provenance.json``.

    Args:
        spec: The cell.
        order: What its worker was told.
        engine_version: The version that the engine reports.
        engine_file: Where the engine was imported from.

    """
    return {
        "spec": spec.model_dump(),
        "git": git.revision(_ROOT),
        "engine": {
            "version": engine_version,
            "binaries": _binaries(order, engine_file),
            "imported_from": engine_file,
            "patches_sha256": order.patches_sha256,
        },
        "model": {"source": spec.model, "sha256": models.digest(order.model)},
        "workload": {"file": str(order.workload), "sha256": _sha256(order.workload)},
        "locks": {path.name: _sha256(path) for path in sorted((_ROOT / "env").glob("[!.]*.lock"))},
        "seeds": {"workload": spec.seed, "engine": 0},
        "beside": order.beside,
        "hardware": {
            "host": platform.node(),
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
            "gpus": [f"{gpu.name}, {gpu.memory >> 20} MiB, {gpu.driver}" for gpu in nvidia.gpus()],
            "system": platform.platform(),
        },
        "python": platform.python_version(),
        "argv": sys.orig_argv,
        "clock": {"wall_ns": time.time_ns(), "monotonic_ns": time.monotonic_ns()},
    }


def _binaries(order: WorkerOrder, engine_file: str) -> str | None:
    """Return the version whose compiled files the engine runs with; None if it is its own."""
    if order.patches_sha256 is None:
        return None
    manifest = patching.read_manifest(Path(engine_file).parents[1])
    return manifest["binaries"] if manifest["binaries"] != manifest["version"] else None


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), None)
