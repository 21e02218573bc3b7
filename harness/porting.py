"""Writing patches: a series as commits of a git checkout, to edit or to carry to another version.

The first commit of a checkout is the engine's source distribution, each later one a patch. Of an
engine that has none it is the installed package's Python files.

A port is a rebase of these commits from one version to the other, which stops where both changed
the same lines. If the series was ported before, each patch starts from what it became then, and
what has changed in it since follows as a fixup. What it was then is looked up in the history of the
repository that holds the series, by the hash that the port left beside its result (``ported``).
"""

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import git, upstream
from harness.errors import HarnessError
from harness.patching import BASE_HASHES, SERIES, Series, find_package, read_series

_PORTED = "ported"
_PORTED_KEY = "port.source"
# The first commit of the version that a port goes to, by name.
_BASE = "refs/port/base"
_TODO = Path(".git", "port-todo")
_CONFLICT = re.compile(
    r"^<{7} [^\n]*\n.*?^\|{7}[^\n]*\n(?P<before>.*?)^={7}\n(?P<after>.*?)^>{7} [^\n]*$",
    re.MULTILINE | re.DOTALL,
)
_DEFINITION = re.compile(r"^ *(?:async )?(?:def|class) (\w+)", re.MULTILINE)

_Report = Callable[[str], object]


def edit(series: Series, checkout: Path, sdists: Path = upstream.SDISTS) -> None:
    """Make a git checkout to edit a series in.

    Args:
        series: The patches.
        checkout: The folder to make.
        sdists: Where source distributions are, or go.

    Raises:
        HarnessError: if the checkout exists, a patch does not apply, or the engine's files cannot
            be had.

    """
    with _new(checkout) as partial:
        root = _commit_base(partial, series.engine, series.version, sdists)
        tip = _commit_patches(partial, root, series)
        git.run(partial, "checkout", "--quiet", "-B", "main", tip)


def export(checkout: Path, folder: Path) -> Series:
    """Write the commits of a checkout as the series in a folder, replacing what is there.

    Raises:
        HarnessError: if the checkout is missing, is in the middle of a port or has uncommitted
            changes.

    """
    if not (checkout / ".git").is_dir():
        raise HarnessError(f"{checkout} is not there: make it with `harness patch edit`")
    if _is_stopped(checkout):
        raise HarnessError(f"{checkout} is in the middle of a port: go on with `make port`")
    if git.run(checkout, "status", "--porcelain"):
        raise HarnessError(f"{checkout} has uncommitted changes: commit or remove them")
    root = git.run(checkout, "rev-list", "--max-parents=0", "HEAD").strip()
    changed = git.run(checkout, "diff", "--name-only", "--diff-filter=ad", root, "HEAD").split()
    contents = {path: git.run(checkout, "show", f"{root}:{path}").encode() for path in changed}
    hashes = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.patch"):
        old.unlink()
    written = git.run(
        checkout,
        "format-patch",
        "--zero-commit",
        "--no-signature",
        "--no-numbered",
        f"--output-directory={folder.resolve()}",
        root,
    ).split()
    (folder / SERIES).write_text("".join(f"{Path(path).name}\n" for path in written))
    (folder / BASE_HASHES).write_text(
        "".join(f"{sha256}  {path}\n" for path, sha256 in hashes.items())
    )
    if source := git.run(checkout, "config", "--default=", "--get", _PORTED_KEY).strip():
        (folder / _PORTED).write_text(f"{source}\n")
    return read_series(folder)


def port(
    source: Series,
    target: Path,
    checkout: Path,
    sdists: Path = upstream.SDISTS,
    report: _Report = print,
) -> None:
    """Carry a series to another version, in a git checkout; go on with it if it had stopped.

    Args:
        source: The patches.
        target: Folder of the series to be, named as the version; read if it is there.
        checkout: The folder to make.
        sdists: Where source distributions are, or go.
        report: Told what is good to know, a line each.

    Raises:
        HarnessError: if something is left to do by hand, naming patch, file and line; if the
            checkout is there and its port is done; as ``edit``.

    """
    if _is_stopped(checkout):
        if left := _left(checkout):
            raise HarnessError(left)
        git.run(checkout, "add", "--all")
        _rebase(checkout, "--continue")
        return
    with _new(checkout) as partial:
        base = _commit_base(partial, source.engine, target.name, sdists)
        root = _commit_base(partial, source.engine, source.version, sdists)
        git.run(partial, "update-ref", _BASE, base)
        for old, new in _moved(partial, root, base, source):
            report(f"{old} is {new} in {source.engine} {target.name}: patched there")
        tip = _commit_patches(partial, root, source)
        before = _before(partial, base, root, source, target, report)
        picks = _picks(partial, before, source, _commits(partial, root, tip))
        (partial / _TODO).write_text("".join(f"{pick}\n" for pick in picks))
        git.run(partial, "config", _PORTED_KEY, f"{source.version} {content_sha256(source)}")
        git.run(partial, "checkout", "--quiet", "-B", "main", tip)
    _rebase(checkout, "--interactive", "--empty=drop", "--onto", base, root)


def source_of(folder: Path) -> tuple[str, str] | None:
    """Return the version that a series was ported from, and the hash that its source had then.

    The hash is that of ``content_sha256``. None if the series is nobody's port.
    """
    try:
        version, sha256 = (folder / _PORTED).read_text().split()
    except FileNotFoundError:
        return None
    return version, sha256


def content_sha256(series: Series) -> str:
    """Return the hash of all patches in order, with messages and what is not of the package."""
    return hashlib.sha256(b"".join(patch.read_bytes() for patch in series.patches)).hexdigest()


@contextmanager
def _new(checkout: Path) -> Iterator[Path]:
    """Give an empty repository under a temporary name; rename it if all goes well."""
    if checkout.exists():
        raise HarnessError(f"{checkout} exists: finish with `make patches`, or delete it")
    partial = checkout.with_name(f".{checkout.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        git.run(partial, "init", "--quiet")
        # Conflicts show what both sides began with.
        git.run(partial, "config", "merge.conflictStyle", "diff3")
        yield partial
        os.replace(partial, checkout)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _commit_base(checkout: Path, engine: str, version: str, sdists: Path) -> str:
    """Commit an engine's files; return the commit, which has no parent."""
    repository = (checkout / ".git").resolve()
    place = {
        "GIT_DIR": str(repository),
        "GIT_WORK_TREE": ".",
        "GIT_INDEX_FILE": str(repository / f"index-{version}"),
    }
    if engine == upstream.PROJECT:
        source, files = upstream.fetch_sdist(version, sdists), "."
    else:
        source, files = _installed(engine, version), f"{engine}/*.py"
    # Also what it tells git to ignore, but not what Python has left there.
    what = ("--all", "--force", "--", files, ":(exclude)*/__pycache__/*")
    git.run(source, "add", *what, environment=place)
    tree = git.run(source, "write-tree", environment=place).strip()
    return git.run(checkout, "commit-tree", tree, "-m", f"{engine} {version}").strip()


def _installed(engine: str, version: str) -> Path:
    """Return the folder that has the installed package of that version."""
    package = find_package(engine)
    if package.version != version:
        raise HarnessError(
            f"{engine} {version} has no source distribution, and {package.version} is installed "
            f"({package.folder}): install {engine} {version}"
        )
    return package.folder.parent


def _commit_patches(checkout: Path, root: str, series: Series) -> str:
    """Commit the patches on a commit, one each; return the last."""
    git.run(checkout, "checkout", "--quiet", "--detach", root)
    for patch in series.patches:
        try:
            git.run(checkout, "am", "--quiet", "--keep-non-patch", str(patch.resolve()))
        except HarnessError as error:
            raise HarnessError(f"{patch} does not apply: {error}") from None
    return git.run(checkout, "rev-parse", "HEAD").strip()


def _commits(checkout: Path, root: str, tip: str) -> list[str]:
    return git.run(checkout, "rev-list", "--reverse", f"{root}..{tip}").split()


def _moved(checkout: Path, root: str, base: str, source: Series) -> list[tuple[str, str]]:
    """Return the series' files that have another name in the other version, with that name."""
    moved = git.run(checkout, "diff", "--name-status", "--diff-filter=R", "-M", root, base)
    pairs = (line.split("\t")[1:] for line in moved.splitlines())
    return [(old, new) for old, new in pairs if old in source.base_hashes]


def _before(
    checkout: Path, base: str, root: str, source: Series, target: Path, report: _Report
) -> dict[str, tuple[str, str]]:
    """Return each patch's commits of the port before, by name: in its source, and as ported."""
    ported = source_of(target)
    if ported is None or ported[0] != source.version:
        return {}
    with _as_it_was(source, ported[1]) as then:
        if then is None:
            report(
                f"{source.folder} as it was when {target} was made of it is not in the git "
                "history: this is a port from the beginning"
            )
            return {}
        was, became = (
            dict(
                zip(
                    map(_name, series.patches),
                    _commits(checkout, start, _commit_patches(checkout, start, series)),
                    strict=True,
                )
            )
            for series, start in ((then, root), (read_series(target), base))
        )
    return {name: (was[name], became[name]) for name in was.keys() & became.keys()}


@contextmanager
def _as_it_was(series: Series, sha256: str) -> Iterator[Series | None]:
    """Give a series as it was when it had a hash, from the history of its repository."""
    if content_sha256(series) == sha256:
        yield series
        return
    folder = series.folder.resolve()
    repository = next((parent for parent in folder.parents if (parent / ".git").exists()), None)
    if repository is None:
        yield None
        return
    place = folder.relative_to(repository)
    with tempfile.TemporaryDirectory() as scratch:
        for revision in git.run(repository, "log", "--format=%H", "--", str(place)).split():
            then = Path(scratch, revision, series.engine, series.version)
            then.mkdir(parents=True)
            with contextlib.suppress(HarnessError):  # the series is not in that revision
                names = git.run(repository, "show", f"{revision}:{place}/{SERIES}").split()
                for name in (SERIES, BASE_HASHES, *names):
                    content = git.run(repository, "show", f"{revision}:{place}/{name}")
                    (then / name).write_text(content)
                if content_sha256(found := read_series(then)) == sha256:
                    yield found
                    return
        yield None


def _picks(
    checkout: Path, before: dict[str, tuple[str, str]], source: Series, commits: list[str]
) -> list[str]:
    """Return what the rebase is to do, in its own words, a line a commit."""
    picks = []
    for patch, commit in zip(source.patches, commits, strict=True):
        if _name(patch) not in before:
            picks.append(f"pick {commit} {_name(patch)}")
            continue
        was, became = before[_name(patch)]
        picks.append(f"pick {became} {_name(patch)}")
        if change := _change(checkout, was, commit):
            picks.append(f"fixup -C {change}")
    return picks


def _name(patch: Path) -> str:
    """Return the name of a patch without its number."""
    return patch.name.partition("-")[2]


def _change(checkout: Path, old: str, new: str) -> str | None:
    """Return a commit of what has changed in a patch, from its commit of then to that of now."""
    git.run(checkout, "checkout", "--quiet", "--detach", f"{new}~")
    try:
        git.run(checkout, "cherry-pick", "--allow-empty", old)
        start = git.run(checkout, "rev-parse", "HEAD").strip()
    except HarnessError:
        # It no longer fits what comes before it, of which the change is then a part.
        git.run(checkout, "cherry-pick", "--abort")
        start = old
    then, now = (
        git.run(checkout, "show", "-s", "--format=%T%n%B", commit) for commit in (start, new)
    )
    if then == now:
        return None
    message = git.run(checkout, "show", "-s", "--format=%B", new)
    return git.run(checkout, "commit-tree", f"{new}^{{tree}}", "-p", start, "-m", message).strip()


def _is_stopped(checkout: Path) -> bool:
    return (checkout / ".git" / "rebase-merge").is_dir()


def _rebase(checkout: Path, *arguments: str) -> None:
    todo = shlex.quote(str((checkout / _TODO).resolve()))
    editors = {"GIT_EDITOR": "true", "GIT_SEQUENCE_EDITOR": f"cp {todo}"}
    try:
        git.run(checkout, "rebase", *arguments, environment=editors)
    except HarnessError:
        left = _left(checkout) if _is_stopped(checkout) else ""
        if not left:
            raise
        raise HarnessError(left) from None


def _left(checkout: Path) -> str:
    """Return what is to be done by hand before the port can go on; nothing if it can."""
    conflicts = [
        line
        for entry in git.run(checkout, "status", "--porcelain", "-z").split("\0")
        for line in _conflicts(checkout, entry[:2], entry[3:])
    ]
    if not conflicts:
        return ""
    subject = git.run(checkout, "show", "-s", "--format=%s", "REBASE_HEAD").strip()
    return "\n  ".join(
        [
            f"{subject!r} does not fit as it is:",
            *conflicts,
            f"settle this in {checkout} (git diff; git add or git rm for whole files), then run "
            "`make port` again, which goes on from there",
        ]
    )


def _conflicts(checkout: Path, status: str, path: str) -> Iterator[str]:
    """Yield what is left to do in a file, a line each; ``status`` is git's two letters."""
    if status in ("DU", "UD"):
        yield f"{path}: deleted by {'the new version' if status == 'DU' else 'the patch'}"
    elif status in ("UU", "AA"):
        text = (checkout / path).read_text()
        for found in _CONFLICT.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            above = _DEFINITION.findall(text[: found.start()])[-1:]
            yield f"{path}:{line}" + (f", after {above[0]}" if above else "")
            before, after = map(_definitions, (found["before"], found["after"]))
            for name in before:
                if before[name] != after.get(name):
                    yield from _now_in(checkout, path, name)


def _definitions(code: str) -> dict[str, str]:
    """Return the text of each class and function, up to the next one, by name."""
    starts = [match.start() for match in _DEFINITION.finditer(code)]
    parts = (code[start:end] for start, end in zip(starts, [*starts[1:], None], strict=False))
    return {_DEFINITION.findall(part)[0]: part for part in parts}


def _now_in(checkout: Path, path: str, name: str) -> Iterator[str]:
    """Yield where else the new version has a definition that a file had."""
    pattern = rf"^ *(async )?(def|class) {name}\b"
    package = f"{Path(path).parts[0]}/*.py"
    with contextlib.suppress(HarnessError):  # nowhere
        for match in git.run(checkout, "grep", "-lE", pattern, _BASE, "--", package).split():
            if (place := match.removeprefix(f"{_BASE}:")) != path:
                yield f"  {name}, which the patch changes, is now in {place}"
