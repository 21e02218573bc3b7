"""Running git in a checkout of ours, such as the one that a series of patches is edited in."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from harness.errors import HarnessError

_IDENTITY = {
    "GIT_AUTHOR_NAME": "arc-kv-harness",
    "GIT_AUTHOR_EMAIL": "patches@invalid",
    "GIT_COMMITTER_NAME": "arc-kv-harness",
    "GIT_COMMITTER_EMAIL": "patches@invalid",
    # The same commits from the same files, whenever they are made.
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
}


def run(
    folder: Path,
    *arguments: str,
    standard_input: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run git in a folder, as the harness, and return what it prints.

    Args:
        folder: Where; of the repositories around it none is used.
        arguments: The command and its arguments.
        standard_input: What git reads, if the command reads anything.
        environment: Variables beside those that there are.

    Raises:
        HarnessError: with git's own message, if it fails or is not installed.

    """
    # In the repository around the folder git would ignore files that this one ignores.
    ceiling = {"GIT_CEILING_DIRECTORIES": str(folder.resolve().parent)}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env={**os.environ, **_IDENTITY, **ceiling, **(environment or {})},
            input=standard_input,
            capture_output=True,
            check=True,
        )
    except FileNotFoundError:
        raise HarnessError("git is not installed; patches are applied with it") from None
    except subprocess.CalledProcessError as error:
        raise HarnessError(f"git {arguments[0]}: {error.stderr.decode().strip()}") from None
    return done.stdout.decode()


def revision(root: Path) -> str | None:
    """Return the revision of a checkout, with ``-dirty`` if files differ; None if it is none.

    A copy of the project within another repository's checkout has none.
    """
    # Told where its repository is, git does not look for one further up, nor in its variables.
    repository = [f"--git-dir={root / '.git'}", f"--work-tree={root}"]
    try:
        done = subprocess.run(
            ["git", *repository, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
