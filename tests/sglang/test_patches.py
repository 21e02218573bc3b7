"""The patches of SGLang, on its own classes, in its own environment."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness import patching, porting
from harness.errors import HarnessError

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


def test_series_is_edited_in_the_installed_package(
    sglang_python: Path, sglang_series: Path, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    porting.edit(patching.read_series(sglang_series), checkout)
    assert not list(checkout.rglob("*.so"))
    series = porting.export(checkout, tmp_path / "sglang" / "0.5.23")
    assert [path.read_bytes() for path in series.files] == [
        (sglang_series / path.name).read_bytes() for path in series.files
    ]
    with pytest.raises(HarnessError, match=r"sglang 9.9 has no source distribution, and 0\.5\.23"):
        porting.edit(replace(series, folder=sglang_series.with_name("9.9")), tmp_path / "other")
