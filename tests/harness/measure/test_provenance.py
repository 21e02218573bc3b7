import json
import subprocess
from pathlib import Path

import pytest
from support.records import SPEC

from harness import turns
from harness.cell import WorkerOrder
from harness.measure import provenance
from harness.measure.provenance import git_revision
from harness.patching import MANIFEST


def _git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    run = subprocess.run(
        ["git", *settings, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return run.stdout.strip()


def _commit(folder: Path) -> str:
    """Make a repository of a folder and return its first commit."""
    _git(folder, "init", "--quiet")
    _git(folder, "add", ".")
    _git(folder, "commit", "--quiet", "--message", "m")
    return _git(folder, "rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, as far as git sees it, within another folder."""
    folder = tmp_path / "outer" / "project"
    folder.mkdir(parents=True)
    (folder / "file").write_text("x")
    monkeypatch.setattr(provenance, "_ROOT", folder)
    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    return folder


def test_revision_says_whether_files_differ(project: Path) -> None:
    commit = _commit(project)
    assert git_revision() == commit
    (project / "file").write_text("y")
    assert git_revision() == f"{commit}-dirty"


def test_worktree_is_a_checkout_too(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = _commit(project)
    other = project.parent / "worktree"
    _git(project, "worktree", "add", "--quiet", str(other))
    monkeypatch.setattr(provenance, "_ROOT", other)
    assert git_revision() == commit


def test_no_checkout_has_no_revision(project: Path) -> None:
    assert git_revision() is None


def test_copy_within_another_repository_has_no_revision_of_its_own(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = _commit(project.parent)
    assert git_revision() is None
    # As in a hook of the other repository.
    monkeypatch.setenv("GIT_DIR", str(project.parent / ".git"))
    assert git_revision() is None
    monkeypatch.delenv("GIT_DIR")
    assert _commit(project) != commit
    assert git_revision() == _git(project, "rev-parse", "HEAD")


@pytest.mark.parametrize(("binaries", "recorded"), [("2.0", None), ("1.0", "1.0")])
def test_compiled_files_of_another_version_are_recorded(
    tmp_path: Path, binaries: str, recorded: str | None
) -> None:
    (tmp_path / "w.jsonl").write_text("")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / MANIFEST).write_text(json.dumps({"version": "2.0", "binaries": binaries}))
    order = WorkerOrder(
        cells={},
        model=str(tmp_path),
        workload=tmp_path / "w.jsonl",
        patches_sha256="x",
        progress_fd=-1,
        place=turns.Place(number=0, mine=-1, give=()),
    )
    file = str(tmp_path / "vllm" / "__init__.py")
    found = provenance.provenance(SPEC, order, engine_version="2.0", engine_file=file)
    assert found["engine"]["binaries"] == recorded
