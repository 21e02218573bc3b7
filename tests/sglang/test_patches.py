"""The patches of SGLang, on its own classes, in its own environment."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., "subprocess.CompletedProcess[str]"]

INSIDE = Path(__file__).parent / "inside"


def test_arc(run_inside: Run) -> None:
    files = sorted(INSIDE.glob("check_*.py"))
    assert files
    options = ("-q", "--noconftest", "-p", "no:cacheprovider", "-W", "ignore")
    done = run_inside("-m", "pytest", *options, "-c", os.devnull, *files)
    assert done.returncode == 0, done.stdout


def test_other_policies_and_cores_are_as_without(run_inside: Run, root: Path) -> None:
    found = []
    for path in (None, root):
        done = run_inside(INSIDE / "hits.py", path=path)
        assert done.returncode == 0, done.stdout
        found.append(json.loads(done.stdout.splitlines()[-1]))
    patched, stock = found
    assert patched == stock
    assert all(sum(hits) for hits in stock.values())


def test_tree_is_the_package_but_for_what_is_patched(
    sglang_tree: Path, sglang_series: Path
) -> None:
    diffs = "".join(patch.read_text() for patch in sglang_series.glob("*.patch"))
    files = [path for path in sglang_tree.glob("sglang/**/*.py") if not path.is_symlink()]
    assert files
    for file in files:
        assert f" b/{file.relative_to(sglang_tree)}\n" in diffs
