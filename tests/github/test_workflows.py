"""The workflows: that what they name is there. What they do, only GitHub can show."""

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import cli, config

_FILES = sorted((Path(__file__).parents[2] / ".github" / "workflows").glob("*.yml"))
_PLACES = {"$RESULTS": "results/nightly", "$HISTORY": "history/nightly.jsonl"}


def _read(name: str) -> dict[str, Any]:
    (path,) = (path for path in _FILES if path.stem == name)
    # YAML 1.1 takes the key `on` for true.
    content: dict[str, Any] = yaml.load(path.read_text(), yaml.BaseLoader)
    return content


def _job(name: str) -> dict[str, Any]:
    job: dict[str, Any]
    (job,) = _read(name)["jobs"].values()
    return job


def _step(name: str, title: str) -> dict[str, Any]:
    step: dict[str, Any]
    (step,) = (step for step in _job(name)["steps"] if step.get("name") == title)
    return step


def _commands(name: str, program: str) -> list[list[str]]:
    """Return the arguments of a program wherever a workflow runs it."""
    script = "\n".join(step.get("run", "") for step in _job(name)["steps"])
    for variable, value in _PLACES.items():
        script = script.replace(variable, value)
    lines = script.replace("\\\n", " ").splitlines()
    words = [shlex.split(line) for line in lines if not line.startswith("`")]
    return [line[1:] for line in words if line and line[0] == program]


@pytest.mark.parametrize("name", [path.stem for path in _FILES])
def test_workflow_may_do_little_and_ends(name: str) -> None:
    workflow = _read(name)
    assert set(workflow["permissions"].values()) == {"read"}
    assert int(_job(name)["timeout-minutes"]) <= 360
    assert "concurrency" in workflow
    for step in _job(name)["steps"]:
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_workflow_is_one_to_githubs_schema(path: Path, tmp_path: Path) -> None:
    assert _check(path).returncode == 0, _check(path).stdout
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(path.read_text().replace("runs-on:", "run-on:"))
    assert "run-on" in _check(wrong).stdout


def _check(path: Path) -> "subprocess.CompletedProcess[str]":
    # The schema comes with the package.
    command = ["check_jsonschema", "--builtin-schema", "vendor.github-workflows", "--verbose"]
    return subprocess.run(
        [sys.executable, "-m", *command, str(path)], capture_output=True, text=True, check=False
    )


def test_ci_is_what_ci_run_does(root: Path) -> None:
    assert set(_read("ci")["on"]) == {"push", "pull_request"}
    assert [step["run"] for step in _job("ci")["steps"] if "run" in step] == [".ci/run"]
    assert (root / ".ci" / "run").stat().st_mode & 0o111


def test_night_comes_by_itself_and_waits_for_the_one_before() -> None:
    nightly = _read("nightly-gpu")
    assert len(nightly["on"]["schedule"]) == 1
    assert nightly["concurrency"]["cancel-in-progress"] == "false"
    assert "gpu" in _job("nightly-gpu")["runs-on"]
    assert {f"${name}": value for name, value in nightly["env"].items()} == _PLACES


def test_night_runs_commands_that_there_are(root: Path) -> None:
    ((target,),) = _commands("nightly-gpu", "make")
    assert re.search(rf"^{target}: ", (root / "Makefile").read_text(), re.MULTILINE)

    (snakemake,) = _commands("nightly-gpu", ".venv/bin/snakemake")
    file = Path(snakemake[snakemake.index("--configfile") + 1])
    assert f"results/{config.load(root / file).name}" == _PLACES["$RESULTS"]
    assert {spec.tier for spec in config.load(root / file).cells.values()} == {"gpu"}

    harness = _commands("nightly-gpu", ".venv/bin/harness")
    assert [arguments[0] for arguments in harness] == ["check-gpu", "claims", "gate"]
    for arguments in harness:
        cli._parser().parse_args(arguments)
    history, png = _PLACES["$HISTORY"], f"{_PLACES['$RESULTS']}/trend.png"
    assert _commands("nightly-gpu", ".venv/bin/python") == [["-m", "figures.trend", history, png]]
    assert find_spec("figures.trend")


def test_history_survives_an_alarm_and_never_a_failed_fetch() -> None:
    steps = [step.get("name") for step in _job("nightly-gpu")["steps"]]
    assert steps.index("Fetch the history") < steps.index("Gate") < steps.index("Keep the history")
    fetch, keep = (_step("nightly-gpu", f"{verb} the history") for verb in ("Fetch", "Keep"))
    assert fetch["with"]["name"] == keep["with"]["name"]
    assert f"{fetch['with']['path']}/nightly.jsonl" == _PLACES["$HISTORY"]
    # A fetch that fails ends the night before the gate, whose outcome is "skipped" then.
    assert "continue-on-error" not in fetch
    assert "always()" not in fetch["if"]
    assert "steps.gate.outcome == 'failure'" in keep["if"]
    assert "always()" in keep["if"]


def test_a_new_history_is_begun_by_hand_only() -> None:
    given = _read("nightly-gpu")["on"]["workflow_dispatch"]["inputs"]
    assert given["new_history"]["type"] == "boolean"
    assert "default" not in given["new_history"]
    fetch = _step("nightly-gpu", "Fetch the history")
    assert fetch["if"].endswith("&& !inputs.new_history")


def test_night_is_measured_anew_in_the_environment_that_is_there() -> None:
    ((_, *clean),) = _commands("nightly-gpu", "git")
    assert set(clean) == {"-ffdxq", "--exclude=/.venv", "--exclude=/data"}
