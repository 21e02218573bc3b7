"""The container files: that they build this project's locks from files that are there.

No container is built here; hadolint has nothing to say of the Dockerfile.
"""

import re
import runpy
from pathlib import Path

import pytest

ENV = Path(__file__).parents[2] / "env"
ROOT = ENV.parent
TARGETS = runpy.run_path(str(ENV / "bootstrap.py"))["TARGETS"]


def _dockerfile() -> str:
    return (ENV / "Dockerfile").read_text().replace("\\\n", " ")


def _definition() -> dict[str, str]:
    """Return Apptainer's sections by name; what comes before the first is ``""``."""
    parts = re.split(r"^%(\w+)\n", (ENV / "apptainer.def").read_text(), flags=re.MULTILINE)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def test_both_start_from_the_same_exact_python() -> None:
    (docker,) = re.findall(r"^FROM (\S+)", _dockerfile(), re.MULTILINE)
    (apptainer,) = re.findall(r"^From: (\S+)", _definition()[""], re.MULTILINE)
    assert docker == apptainer
    assert re.fullmatch(r"python:3\.11\.\d+-bookworm", docker)


@pytest.mark.parametrize("text", [_dockerfile(), _definition()["post"]])
def test_nothing_is_installed_but_by_bootstrap(text: str) -> None:
    assert re.search(r"python \S*env/bootstrap\.py --target ", text)
    commands = re.sub(r"^\s*#.*", "", text, flags=re.MULTILINE)
    assert not re.search(r"\b(apt|apt-get|pip|conda|curl|wget|git clone) ", commands)


def test_docker_runs_as_no_root_what_is_in_the_checkout() -> None:
    lines = _dockerfile().splitlines()
    user = lines.index("USER 1000")
    made = [number for number, line in enumerate(lines) if "bootstrap.py --target" in line]
    assert user < made[-1]
    assert lines.index("COPY --chown=1000:1000 . .") < made[-1]
    ignored = (ENV / "Dockerfile.dockerignore").read_text().split()
    # All that the environment is made from, and what says which revision it is.
    for needed in ("env", "harness", "pyproject.toml", "README.md", ".git"):
        assert needed not in ignored
    # What set-up makes is not taken over from the host.
    assert {".venv", ".venv-sglang", "build", "results", "data", ".snakemake"} <= set(ignored)


def test_apptainer_has_all_that_bootstrap_reads() -> None:
    copied = dict(line.split() for line in _definition()["files"].split("\n") if line)
    assert all((ROOT / source).exists() for source in copied)
    assert all(target == f"/opt/arc/{source}" for source, target in copied.items())
    assert {"env/bootstrap.py", "pyproject.toml", "README.md"} <= copied.keys()
    project = (ROOT / "pyproject.toml").read_text()
    (packages,) = re.findall(r"^include = \[(.+)\]", project, re.MULTILINE)
    assert {name.rstrip("*") for name in re.findall(r'"(.+?)"', packages)} <= copied.keys()
    locks = [
        lock
        for target in TARGETS.values()
        if target.venv == ".venv"
        for lock in (target.lock, target.torch_lock)
    ]
    assert {f"env/{lock}" for lock in locks if lock} <= copied.keys()


def test_targets_are_those_of_bootstrap() -> None:
    (docker,) = re.findall(r"^ARG TARGET=(\S+)", _dockerfile(), re.MULTILINE)
    assert docker == _definition()["arguments"].split("=")[1].strip() == "cpu"
    # SGLang's environment comes beside the other, and is not in a container yet.
    targets = [name for name, target in TARGETS.items() if target.venv == ".venv"]
    assert f"TARGET is {' or '.join(targets)}" in (ENV / "Dockerfile").read_text()
