"""Which revision a checkout has."""

import subprocess
from pathlib import Path

import pytest

from harness import git


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
    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    return folder


def test_revision_says_whether_files_differ(project: Path) -> None:
    commit = _commit(project)
    assert git.revision(project) == commit
    (project / "file").write_text("y")
    assert git.revision(project) == f"{commit}-dirty"


def test_worktree_is_a_checkout_too(project: Path) -> None:
    commit = _commit(project)
    other = project.parent / "worktree"
    _git(project, "worktree", "add", "--quiet", str(other))
    assert git.revision(other) == commit


def test_no_checkout_has_no_revision(project: Path) -> None:
    assert git.revision(project) is None


def test_copy_within_another_repository_has_no_revision_of_its_own(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = _commit(project.parent)
    assert git.revision(project) is None
    # As in a hook of the other repository.
    monkeypatch.setenv("GIT_DIR", str(project.parent / ".git"))
    assert git.revision(project) is None
    monkeypatch.delenv("GIT_DIR")
    assert _commit(project) != commit
    assert git.revision(project) == _git(project, "rev-parse", "HEAD")
