"""The tests that the series brings into vLLM's own tree pass on the engine that it patches."""

import os
import subprocess
import sys
from pathlib import Path

from harness import git
from harness.patching import Series


def test_own_tests_pass(series: Series, engine_tree: Path, tmp_path: Path) -> None:
    for patch in series.patches:
        git.run(tmp_path, "apply", "--include=tests/*", str(patch.resolve()))
    files = sorted(map(str, tmp_path.rglob("test_*.py")))
    assert files
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-c", os.devnull, f"--rootdir={tmp_path}", "-o", "markers=cpu_test", *files),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(engine_tree)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
