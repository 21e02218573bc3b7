import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import patching, upstream
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


def _write_series(folder: Path, base: Path, patches: dict[str, str]) -> Series:
    """Write a series by hand: the file ``base`` is what its patches change in the package."""
    folder.mkdir(parents=True)
    sha256 = hashlib.sha256(base.read_bytes()).hexdigest()
    (folder / "base.sha256").write_text(f"{sha256}  vllm/core/pool.py\n{'0' * 64}  docs/pool.md\n")
    (folder / "series").write_text("".join(f"{name}\n" for name in patches))
    for name, text in patches.items():
        (folder / name).write_text(text)
    return patching.read_series(folder)


_FIRST = """\
Subject: first

---
diff --git a/docs/pool.md b/docs/pool.md
--- a/docs/pool.md
+++ b/docs/pool.md
@@ -1 +1 @@
-A page that the package lacks.
+Another.
diff --git a/vllm/core/pool.py b/vllm/core/pool.py
--- a/vllm/core/pool.py
+++ b/vllm/core/pool.py
@@ -1,3 +1,3 @@
-A = 1
+A = 10
 B = 2
 C = 3
"""
_SECOND = """\
Subject: second

---
diff --git a/vllm/core/new/z.py b/vllm/core/new/z.py
new file mode 100644
--- /dev/null
+++ b/vllm/core/new/z.py
@@ -0,0 +1 @@
+Z = 1
diff --git a/vllm/core/pool.py b/vllm/core/pool.py
--- a/vllm/core/pool.py
+++ b/vllm/core/pool.py
@@ -1,3 +1,3 @@
 A = 10
-B = 2
+B = 20
 C = 3
diff --git a/tests/test_pool.py b/tests/test_pool.py
new file mode 100644
--- /dev/null
+++ b/tests/test_pool.py
@@ -0,0 +1 @@
+T = 1
"""
_THIRD = """\
Subject: third

---
diff --git a/docs/new.md b/docs/new.md
new file mode 100644
--- /dev/null
+++ b/docs/new.md
@@ -0,0 +1 @@
+A page.
"""


@pytest.fixture
def small_series(tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch) -> Series:
    """A series of three patches, with changes of what the package lacks."""
    monkeypatch.setattr(patching, "find_package", lambda engine: package)
    return _write_series(
        tmp_path / "patches" / "vllm" / "1.0",
        package.folder / "core" / "pool.py",
        {"0001-first.patch": _FIRST, "0002-second.patch": _SECOND, "0003-third.patch": _THIRD},
    )


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
    assert manifest["binaries"] == "1.0"
    assert manifest["patches_sha256"] == small_series.sha256
    assert not (tree / "docs").exists()
    assert not (tree / "tests").exists()
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
        HarnessError, match=r"vllm/core/pool\.py: .* in vllm 1\.0 \(.*\), but .* vllm 1\.0, which"
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


def test_results_are_named_by_what_is_changed_in_the_package(small_series: Series) -> None:
    first, second, third = small_series.patches
    before = small_series.sha256
    first.write_text(first.read_text().replace("first", "1st").replace("Another", "Some other"))
    second.write_text(second.read_text().replace("T = 1", "T = 2"))
    third.write_text(third.read_text().replace("A page", "One page"))
    assert small_series.sha256 == before
    second.write_text(second.read_text().replace("Z = 1", "Z = 2"))
    assert small_series.sha256 != before


def test_another_version_runs_from_its_source_with_the_installed_binaries(
    tmp_path: Path, package: Package, small_series: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package.folder / "_C.so").write_text("binary")
    (package.folder / "core" / "deep" / "_D.so").write_text("binary")
    sdist = tmp_path / "sdists" / "vllm-2.0"
    shutil.copytree(package.folder, sdist / "vllm", ignore=shutil.ignore_patterns("*.so"))
    (sdist / "vllm" / "core" / "deep" / "x.py").write_text("X = 2\n")
    monkeypatch.setattr(upstream, "fetch_sdist", lambda version, folder: folder / f"vllm-{version}")
    folder = small_series.folder.with_name("2.0")
    shutil.copytree(small_series.folder, folder)
    monkeypatch.chdir(tmp_path)
    tree = tmp_path / "tree"
    patching.build(patching.read_series(folder), tree, Path("sdists"))
    manifest = patching.read_manifest(tree)
    assert (manifest["version"], manifest["binaries"]) == ("2.0", "1.0")
    assert (tree / "vllm/core/pool.py").read_text() == "A = 10\nB = 20\nC = 3\n"
    assert (tree / "vllm/core/deep/x.py").read_text() == "X = 2\n"
    assert (tree / "vllm/other").resolve() == sdist / "vllm" / "other"
    for binary in ("_C.so", "core/deep/_D.so"):
        assert (tree / "vllm" / binary).resolve() == package.folder / binary
    assert "Version: 2.0+cpu" in (tree / "vllm-2.0.dist-info" / "METADATA").read_text()
    assert not list(sdist.rglob("*.so"))


def test_series_of_a_version(small_series: Series) -> None:
    folder = small_series.folder.parent
    assert patching.find_series(None, folder) == small_series
    shutil.copytree(small_series.folder, folder / "2.0")
    assert patching.find_series("2.0", folder).version == "2.0"
    with pytest.raises(
        HarnessError, match=r"no patches for vllm 3\.0 in .*, only for 1\.0, 2\.0: "
    ):
        patching.find_series("3.0", folder)


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
