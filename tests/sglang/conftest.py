"""SGLang is imported by its own environment's Python only; tests here start that."""

import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import patching

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def sglang_python(root: Path) -> Path:
    python = root / ".venv-sglang" / "bin" / "python"
    if not python.exists():
        pytest.skip("SGLang's environment is not there: make env-sglang")
    return python


@pytest.fixture(scope="session")
def sglang_series(root: Path) -> Path:
    (series,) = (root / "patches" / "sglang").glob("*/series")
    return series.parent


@pytest.fixture(scope="session")
def sglang_tree(root: Path, shared: Path, sglang_python: Path, sglang_series: Path) -> Path:
    """The patched package, made once for all workers."""
    tree = shared / "sglang"
    with (shared / "sglang.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.is_dir():
            patching.build(patching.read_series(sglang_series), tree)
    return tree


@pytest.fixture
def run_inside(root: Path, sglang_python: Path, sglang_tree: Path, tmp_path: Path) -> Run:
    """Run SGLang's Python on the patched package, or with a path of one's own."""

    def run(*arguments: object, path: Path | None = None) -> "subprocess.CompletedProcess[str]":
        folders = [path] if path else [sglang_tree, root]
        return subprocess.run(
            [sglang_python, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    return run
