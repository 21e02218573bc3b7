"""Editing, exporting and porting a small series between two small source distributions."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import git, patching, porting, upstream
from harness.errors import HarnessError
from harness.patching import Series

_POOL = """\
import os


def take(n):
    blocks = []
    return blocks


def plan(size):
    size = size * 2
    return size


def free(blocks):
    return len(blocks)
"""
_NAMES = "A = 1\nB = 2\nC = 3\nD = 4\nE = 5\nF = 6\nG = 7\n"
_PAGE = "# Pool\n\nHow blocks are taken.\n"


class Project:
    """A repository with series of patches, beside the source distributions of two versions."""

    def __init__(self, folder: Path) -> None:
        self.sdists = folder / "sdists"
        self.root = folder / "project"
        self.old, self.new = (self.root / "patches" / "vllm" / name for name in ("1.0", "2.0"))
        self.checkout = self.root / "build" / "vllm-2.0"
        self.said: list[str] = []
        self.root.mkdir(parents=True)
        git.run(self.root, "init", "--quiet")
        self.write_sdist("1.0", {"vllm/pool.py": _POOL, "vllm/names.py": _NAMES})
        self.old.mkdir(parents=True)
        (self.old / "series").write_text("")
        (self.old / "base.sha256").write_text("")

    def write_sdist(self, version: str, files: dict[str, str]) -> None:
        for path, text in ({"docs/pool.md": _PAGE, ".gitignore": "_version.py\n"} | files).items():
            file = self.sdists / f"vllm-{version}" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def edit(
        self, commits: dict[str, dict[str, tuple[str, str]]], folder: Path | None = None
    ) -> None:
        """Add a patch to a series for each message, with what it replaces in each file."""
        folder = folder or self.old
        checkout = self.root / "build" / f"vllm-{folder.name}-edit"
        porting.edit(patching.read_series(folder), checkout, self.sdists)
        for message, changes in commits.items():
            for path, change in changes.items():
                _replace(checkout / path, *change)
            git.run(checkout, "add", "--all")
            git.run(checkout, "commit", "--quiet", f"--message={message}")
        porting.export(checkout, folder)
        shutil.rmtree(checkout)

    def amend(self, patch: str, change: tuple[str, str]) -> None:
        """Replace text in a patch of the old series, and bring its later patches up to it."""
        series = patching.read_series(self.old)
        file = next(path for path in series.patches if patch in path.name)
        _replace(file, *change)

    def commit(self) -> None:
        git.run(self.root, "add", "patches")
        git.run(self.root, "commit", "--quiet", "--message=all")

    def port(self) -> None:
        series = patching.read_series(self.old)
        porting.port(series, self.new, self.checkout, self.sdists, self.said.append)

    def export(self) -> Series:
        series = porting.export(self.checkout, self.new)
        shutil.rmtree(self.checkout)
        return series

    def text(self, path: str) -> str:
        return (self.checkout / path).read_text()


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text() if file.exists() else ""
    assert old in text
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text.replace(old, new, 1))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(upstream, "fetch_sdist", lambda version, folder: folder / f"vllm-{version}")
    project = Project(tmp_path)
    project.edit(
        {
            "[Core] First": {
                "vllm/pool.py": ("blocks = []", "blocks = [0]"),
                "docs/pool.md": ("taken.", "taken and ordered."),
                "tests/test_pool.py": ("", "T = 1\n"),
            },
            "[Core] Second": {
                "vllm/pool.py": ("return size", "return size + 1"),
                "vllm/names.py": ("C = 3", "C = 30"),
            },
        }
    )
    project.commit()
    return project


def _hashes(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.iterdir())
    }


def test_export_has_what_is_not_of_the_package(project: Project) -> None:
    series = patching.read_series(project.old)
    assert [patch.name for patch in series.patches] == [
        "0001-Core-First.patch",
        "0002-Core-Second.patch",
    ]
    assert set(series.base_hashes) == {"docs/pool.md", "vllm/names.py", "vllm/pool.py"}
    assert "tests/test_pool.py" in series.patches[0].read_text()


def test_export_after_edit_changes_nothing(project: Project, tmp_path: Path) -> None:
    before = _hashes(project.old)
    (project.sdists / "vllm-1.0" / "vllm" / "__pycache__").mkdir()
    (project.sdists / "vllm-1.0" / "vllm" / "__pycache__" / "pool.pyc").write_text("")
    (project.sdists / "vllm-1.0" / "vllm" / "_version.py").write_text("V = 1\n")
    checkout = tmp_path / "again"
    porting.edit(patching.read_series(project.old), checkout, project.sdists)
    assert (checkout / "vllm" / "_version.py").exists()
    assert not list(checkout.rglob("__pycache__"))
    porting.export(checkout, project.old)
    assert _hashes(project.old) == before


def test_what_cannot_be_exported(project: Project, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    with pytest.raises(HarnessError, match="is not there"):
        porting.export(checkout, project.old)
    porting.edit(patching.read_series(project.old), checkout, project.sdists)
    (checkout / "vllm" / "pool.py").write_text("")
    with pytest.raises(HarnessError, match="uncommitted changes"):
        porting.export(checkout, project.old)
    with pytest.raises(HarnessError, match="exists"):
        porting.edit(patching.read_series(project.old), checkout, project.sdists)


def test_patch_that_does_not_apply_leaves_no_checkout(project: Project, tmp_path: Path) -> None:
    project.amend("Second", ("-    return size", "-    return sighs"))
    with pytest.raises(HarnessError, match=r"0002-Core-Second\.patch does not apply: "):
        porting.edit(patching.read_series(project.old), tmp_path / "checkout", project.sdists)
    assert not (tmp_path / "checkout").exists()


def test_port_without_conflicts(project: Project) -> None:
    moved = {"vllm/labels.py": _NAMES.replace("A = 1", "A = 0")}
    project.write_sdist("2.0", {"vllm/pool.py": f'"""Blocks."""\n{_POOL}'} | moved)
    project.port()
    assert project.said == ["vllm/names.py is vllm/labels.py in vllm 2.0: patched there"]
    assert project.text("vllm/labels.py") == _NAMES.replace("A = 1", "A = 0").replace(
        "C = 3", "C = 30"
    )
    series = project.export()
    assert [patch.name for patch in series.patches] == [
        patch.name for patch in patching.read_series(project.old).patches
    ]
    assert set(series.base_hashes) == {"docs/pool.md", "vllm/labels.py", "vllm/pool.py"}
    old = patching.read_series(project.old)
    assert porting.source_of(project.new) == ("1.0", porting.content_sha256(old))
    assert porting.source_of(project.old) is None


@pytest.fixture
def conflicting(project: Project) -> Project:
    """The other version has changed a line that a patch changes, and moved a function."""
    plan = _POOL[_POOL.index("def plan") : _POOL.index("def free")]
    files = {
        "vllm/pool.py": _POOL.replace("blocks = []", "blocks = list()").replace(plan, ""),
        "vllm/planning.py": plan,
    }
    project.write_sdist("2.0", files | {"vllm/names.py": _NAMES})
    return project


def _settle_first(project: Project) -> None:
    with pytest.raises(HarnessError) as raised:
        project.port()
    message = str(raised.value)
    assert "'[Core] First' does not fit" in message
    assert "vllm/pool.py:5, after take" in message
    with pytest.raises(HarnessError, match="'\\[Core\\] First' does not fit"):
        project.port()
    with pytest.raises(HarnessError, match="in the middle of a port"):
        porting.export(project.checkout, project.new)
    text = project.text("vllm/pool.py")
    start, end = text.index("<<<<<<<"), text.index(">>>>>>>")
    end = text.index("\n", end) + 1
    (project.checkout / "vllm/pool.py").write_text(
        f"{text[:start]}    blocks = list((0,))\n{text[end:]}"
    )


def _settle_second(project: Project) -> None:
    with pytest.raises(HarnessError) as raised:
        project.port()
    message = str(raised.value)
    assert "'[Core] Second' does not fit" in message
    assert "plan, which the patch changes, is now in vllm/planning.py" in message
    (project.checkout / "vllm/pool.py").write_text(
        (project.sdists / "vllm-2.0/vllm/pool.py").read_text().replace("list()", "list((0,))")
    )
    _replace(project.checkout / "vllm/planning.py", "return size", "return size + 1")


def test_port_stops_at_each_conflict_and_goes_on(conflicting: Project) -> None:
    _settle_first(conflicting)
    _settle_second(conflicting)
    conflicting.port()
    with pytest.raises(HarnessError, match="exists: finish with `make patches`"):
        conflicting.port()
    series = conflicting.export()
    assert len(series.patches) == 2
    assert "vllm/planning.py" in series.base_hashes
    assert "Conflicts" not in series.patches[0].read_text()


def test_file_that_is_gone_is_named(project: Project) -> None:
    project.write_sdist("2.0", {"vllm/pool.py": _POOL})
    with pytest.raises(HarnessError, match=r"vllm/names\.py: deleted by the new version"):
        project.port()
    with pytest.raises(HarnessError, match=r"vllm/names\.py: deleted by the new version"):
        project.port()
    git.run(project.checkout, "rm", "--quiet", "vllm/names.py")
    project.port()
    assert set(project.export().base_hashes) == {"docs/pool.md", "vllm/pool.py"}


def test_second_port_asks_for_nothing_that_was_settled(conflicting: Project) -> None:
    project = conflicting
    _settle_first(project)
    _settle_second(project)
    project.port()
    # Nothing that git could know of: it is kept, too.
    _replace(project.checkout / "vllm/names.py", "E = 5", "E = 50")
    git.run(project.checkout, "commit", "--quiet", "--all", "--amend", "--no-edit")
    project.export()
    project.commit()

    project.port()
    before = _hashes(project.new)
    project.export()
    assert _hashes(project.new) == before

    project.amend("First", ("+T = 1", "+T = 2"))
    project.edit({"[Core] Third": {"vllm/names.py": ("G = 7", "G = 70")}})
    project.port()
    assert project.said == []
    assert project.text("tests/test_pool.py") == "T = 2\n"
    assert project.text("vllm/names.py") == "A = 1\nB = 2\nC = 30\nD = 4\nE = 50\nF = 6\nG = 70\n"
    assert "list((0,))" in project.text("vllm/pool.py")
    assert "size + 1" in project.text("vllm/planning.py")
    series = project.export()
    assert len(series.patches) == 3
    assert "T = 2" in series.patches[0].read_text()
    assert "T = 2" not in "".join(patch.read_text() for patch in series.patches[1:])


def test_second_port_without_the_history(conflicting: Project) -> None:
    project = conflicting
    _settle_first(project)
    _settle_second(project)
    project.port()
    project.export()
    project.amend("First", ("+T = 1", "+T = 2"))
    shutil.rmtree(project.root / ".git")
    _settle_first(project)
    assert "is not in the git history: this is a port from the beginning" in project.said[0]


def test_no_port_lags_behind_its_source(root: Path) -> None:
    for record in (root / patching.PATCHES).glob("*/ported"):
        version, sha256 = porting.source_of(record.parent) or ("", "")
        source = patching.read_series(record.parent.with_name(version))
        assert porting.content_sha256(source) == sha256, (
            f"patches for {version} have changed: make port FROM={version} TO={record.parent.name}"
        )


def test_git_that_fails_and_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HarnessError, match=r"git status: .*not a git repository"):
        git.run(tmp_path, "status")
    monkeypatch.setattr(subprocess, "run", _missing)
    with pytest.raises(HarnessError, match="git is not installed"):
        git.run(tmp_path, "status")


def _missing(*_: object, **__: object) -> None:
    raise FileNotFoundError
