import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import patching
from harness.errors import HarnessError
from harness.patching import Package, Series


def _files(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """A small installed package with one module to patch and one to leave alone."""
    folder = tmp_path / "site-packages" / "vllm"
    (folder / "core" / "deep").mkdir(parents=True)
    (folder / "other").mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "core" / "__init__.py").write_text("")
    (folder / "core" / "pool.py").write_text("A = 1\nB = 2\nC = 3\n")
    (folder / "core" / "deep" / "x.py").write_text("X = 1\n")
    (folder / "other" / "y.py").write_text("Y = 1\n")
    return Package(folder, "1.0", "+cpu")


@pytest.fixture
def small_series(tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch) -> Series:
    """A series of two patches, made with ``edit`` and ``export`` themselves."""
    monkeypatch.setattr(patching, "find_package", lambda engine: package)
    folder = tmp_path / "patches" / "vllm" / "1.0"
    folder.mkdir(parents=True)
    base = package.folder / "core" / "pool.py"
    sha256 = hashlib.sha256(base.read_bytes()).hexdigest()
    (folder / "base.sha256").write_text(f"{sha256}  vllm/core/pool.py\n")
    (folder / "series").write_text("")
    checkout = tmp_path / "checkout"
    patching.edit(patching.read_series(folder), checkout)
    for text, message in (
        ("A = 10\nB = 2\nC = 3\n", "first"),
        ("A = 10\nB = 20\nC = 3\n", "second"),
    ):
        (checkout / "vllm" / "core" / "pool.py").write_text(text)
        if message == "second":
            (checkout / "vllm" / "core" / "new").mkdir()
            (checkout / "vllm" / "core" / "new" / "z.py").write_text("Z = 1\n")
        patching._commit_all(checkout, message)
    return patching.export(checkout, folder)


def test_tree_is_patched_and_the_package_is_not(
    tmp_path: Path, package: Package, small_series: Series
) -> None:
    before = _files(package.folder)
    tree = tmp_path / "tree"
    patching.build(small_series, tree)
    assert _files(package.folder) == before
    assert (tree / "vllm/core/pool.py").read_text() == "A = 10\nB = 20\nC = 3\n"
    assert (tree / "vllm/core/new/z.py").read_text() == "Z = 1\n"
    assert (tree / "vllm/other").is_symlink()
    assert (tree / "vllm/core/deep").is_symlink()
    assert not (tree / "vllm/core/pool.py").is_symlink()
    manifest = patching.read_manifest(tree)
    assert manifest["version"] == "1.0"
    assert manifest["patches_sha256"] == small_series.sha256
    script = (
        "import vllm.core.pool as p, vllm.core.new.z as z, vllm.other.y as y;"
        "from importlib.metadata import version;"
        "print(p.B, z.Z, y.Y, version('vllm'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["20", "1", "1", "1.0+cpu"]


def test_importing_the_tree_leaves_no_bytecode_in_the_package(
    tmp_path: Path, package: Package, small_series: Series
) -> None:
    import compileall

    compileall.compile_dir(package.folder, quiet=2)
    cache = package.folder / "core" / "__pycache__"
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    tree = tmp_path / "tree"
    patching.build(small_series, tree)
    subprocess.run(
        [sys.executable, "-c", "import vllm.core.pool as p; assert p.B == 20"],
        env={"PYTHONPATH": str(tree)},
        check=True,
    )
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before


def test_changed_base_file_names_file_and_both_versions(
    tmp_path: Path, package: Package, small_series: Series
) -> None:
    (package.folder / "core" / "pool.py").write_text("A = 0\n")
    with pytest.raises(
        HarnessError, match=r"vllm/core/pool\.py: .* installed vllm 1\.0, but .* vllm 1\.0, which"
    ):
        patching.build(small_series, tmp_path / "tree")
    (package.folder / "core" / "pool.py").unlink()
    with pytest.raises(HarnessError, match=r"vllm/core/pool\.py: no such file"):
        patching.build(small_series, tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    assert not (tmp_path / ".tree.partial").exists()


def test_patch_that_does_not_apply_is_named(tmp_path: Path, small_series: Series) -> None:
    second = small_series.patches[1]
    second.write_text(second.read_text().replace("-B = 2\n", "-B = 3\n"))
    with pytest.raises(HarnessError, match=r"0002-second\.patch does not apply: .*pool\.py"):
        patching.build(small_series, tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_export_after_edit_changes_nothing(tmp_path: Path, small_series: Series) -> None:
    before = _files(small_series.folder)
    patching.edit(small_series, tmp_path / "again")
    patching.export(tmp_path / "again", small_series.folder)
    assert _files(small_series.folder) == before


def test_export_refuses_uncommitted_changes(tmp_path: Path, small_series: Series) -> None:
    (tmp_path / "checkout" / "vllm" / "core" / "pool.py").write_text("A = 99\n")
    with pytest.raises(HarnessError, match="uncommitted changes"):
        patching.export(tmp_path / "checkout", small_series.folder)
    with pytest.raises(HarnessError, match="is not there"):
        patching.export(tmp_path / "nowhere", small_series.folder)
    with pytest.raises(HarnessError, match="exists"):
        patching.edit(small_series, tmp_path / "checkout")


def test_series_that_names_a_missing_patch_is_refused(small_series: Series) -> None:
    small_series.patches[0].unlink()
    with pytest.raises(HarnessError, match=r"names 0001-first\.patch, which is not there"):
        patching.read_series(small_series.folder)
    with pytest.raises(HarnessError, match="not a patch series"):
        patching.read_series(small_series.folder.parent)


def test_not_a_tree(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="not a patched engine tree"):
        patching.read_manifest(tmp_path)


# The real series, on the real package.


@pytest.fixture(scope="module")
def installed() -> Iterator[dict[str, str]]:
    """Hashes of the installed package's files, which must not change under the tests."""
    # Not find_package: the patched tree is first on the path of the tests.
    folder = Path(sysconfig.get_paths()["purelib"]) / "vllm" / "v1" / "core"
    before = _files(folder)
    yield before
    assert _files(folder) == before


def test_real_series_gives_the_tree(engine_tree: Path, installed: dict[str, str]) -> None:
    manifest = json.loads((engine_tree / patching.MANIFEST).read_text())
    assert "vllm/v1/core/eviction/arc.py" in manifest["patched_files"]
    for path in manifest["patched_files"]:
        assert not os.path.islink(engine_tree / path)
    assert (engine_tree / "vllm" / "model_executor").is_symlink()


def test_readme_counts_the_lines_of_each_patch(series: Series) -> None:
    readme = (series.folder / "README.md").read_text()
    for patch in series.patches:
        lines = patch.read_text().split("\n---\n", 1)[1].splitlines()
        added = sum(line.startswith("+") and not line.startswith("+++") for line in lines)
        removed = sum(line.startswith("-") and not line.startswith("---") for line in lines)
        row = re.search(rf"^\| {patch.name[:4]} \|.*\| \+(\d+) -(\d+) \|$", readme, re.MULTILINE)
        assert row is not None, patch.name
        assert (int(row[1]), int(row[2])) == (added, removed), patch.name
