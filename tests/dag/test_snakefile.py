"""The DAG as a whole: what it would run, what it refuses, and what an interruption leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from figures import catalogue, saved
from harness import config, patching
from harness.analysis import tables

_SNAKEMAKE = [sys.executable, "-m", "snakemake", "--cores", "all"]


def _snakemake(
    folder: Path, *arguments: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*_SNAKEMAKE, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "name",
    [
        *("cpu", "smoke", "seeds", "policies", "saturation"),
        *("paper", "gpu-small", "fleet", "nightly", "versions"),
    ],
)
def test_dry_run_has_every_cell_once(checkout: Path, name: str) -> None:
    # Which is the default, as is the target.
    given = ["figures", "--configfile", f"config/{name}.yaml"] if name != "cpu" else []
    run = _snakemake(checkout, "--dry-run", *given)
    assert run.returncode == 0, run.stderr
    parsed = config.load(checkout / "config" / f"{name}.yaml")
    output = run.stdout + run.stderr
    for group in parsed.groups:
        assert output.count(f"    output: results/{name}/cells/{group}\n") == 1
    for figure in catalogue.names(parsed):
        assert f"results/{name}/figures/{figure}.png" in output
    assert f"results/{name}/policies.md" in output


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"tiers": {"tpu": {"block_size": 16}}}, "should be 'replay', 'cpu' or 'gpu', not 'tpu'"),
        (
            {"tiers": {"cpu": {"block_size": 48}, "replay": {"block_size": 16}}},
            "tiers.cpu.block_size: 48",
        ),
    ],
)
def test_bad_config_is_one_message_before_anything_runs(
    checkout: Path, edit: dict[str, object], message: str
) -> None:
    path = checkout / "config" / "bad.yaml"
    cpu = yaml.safe_load((checkout / "config/cpu.yaml").read_text())
    path.write_text(yaml.safe_dump(cpu | edit))
    run = _snakemake(checkout, "figures", "--configfile", "config/bad.yaml")
    assert run.returncode != 0
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert not (checkout / "results").exists()
    assert not (checkout / "build").exists()


def test_config_names_the_version_of_the_engine(checkout: Path) -> None:
    for series in (checkout / patching.PATCHES).glob("*/series"):
        version = series.parent.name
        path = checkout / "config" / "versions.yaml"
        content = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump(content | {"vllm": version}))
        run = _snakemake(checkout, "--dry-run", "--configfile", "config/versions.yaml")
        assert run.returncode == 0, run.stderr
        assert f"output: build/engines/vllm-{version}\n" in run.stdout + run.stderr


def test_patch_that_does_not_apply_stops_the_run(checkout: Path) -> None:
    series = patching.find_series(folder=checkout / patching.PATCHES)
    patch = series.patches[0]
    patch.write_text(
        patch.read_text().replace("\n         # Cache for block lookup\n", "\n         # Other\n")
    )
    tree = f"vllm-{series.version}"
    run = _snakemake(checkout, f"build/engines/{tree}")
    assert run.returncode != 0
    assert f"{patch.name} does not apply" in run.stderr
    assert not list((checkout / "build").rglob(f"*{tree}*"))


@pytest.fixture
def model_made(checkout: Path, tiny_model: Path) -> None:
    """Put the model into the checkout, where making it takes longer than what is tested."""
    shutil.copytree(tiny_model, checkout / "build" / "models" / tiny_model.name)


def _ours(folder: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["cwd", "status"]):
        if process.info["cwd"] == str(folder) and process.info["status"] != "zombie":
            yield process


def _wait_until_gone(folder: Path) -> None:
    deadline = time.monotonic() + 90
    while left := list(_ours(folder)):
        assert time.monotonic() < deadline, [process.cmdline() for process in left]
        time.sleep(0.1)


@pytest.mark.usefixtures("model_made")
def test_figure_of_data_that_cannot_be_had_does_not_fail_the_run_and_one_of_invalid_cells_does(
    checkout: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load((checkout / "config/smoke.yaml").read_text())
    content["workloads"]["conversation-mooncake"]["warm_up"] = 1
    experiment = content["experiments"]["figure-5-mooncake"] | {"policies": ["arc"]}
    content["experiments"] = {"figure-5-mooncake": experiment}
    (checkout / "config/smoke.yaml").write_text(yaml.safe_dump(content))
    # No network: nothing listens there.
    environment = {"KV_DATA": str(tmp_path / "data"), "https_proxy": "http://127.0.0.1:9"}
    arguments = ["figures", "--configfile", "config/smoke.yaml"]
    results = checkout / "results" / "smoke"

    run = _snakemake(checkout, *arguments, **environment)
    assert run.returncode == 0, run.stderr
    assert "warning: conversation-mooncake: data set mooncake is not in" in run.stderr
    (row,) = tables.read_cells(results / "cells.csv").to_dict("records")
    assert not row["valid"]
    assert row["invalid_reason"].startswith("not run: data set mooncake is not in ")
    assert "Download" in row["invalid_reason"]
    assert _outcomes(results) == {"fig5-mooncake": "not run", "fig7": "not run"}
    assert "Nothing to be done" in _snakemake(checkout, *arguments, **environment).stderr

    # As the next step finds it whose every cell ended invalid: all else is made, then it fails.
    cells = tables.read_cells(results / "cells.csv")
    cells = cells.assign(invalid_reason="2 of 3 requests failed")
    cells.to_csv(results / "cells.csv", index=False)
    (results / "report.html").unlink()
    run = _snakemake(checkout, *arguments, **environment)
    assert run.returncode != 0
    assert "error: 2 of 2 figures could not be drawn" in run.stderr
    assert _outcomes(results) == {"fig5-mooncake": "not drawn", "fig7": "not drawn"}
    assert "2 of 3 requests failed" in (results / "report.html").read_text()
    assert (results / "claims.json").is_file()

    # It is used once it comes.
    (tmp_path / "data" / "mooncake").mkdir(parents=True)
    (tmp_path / "data" / "mooncake" / "conversation_trace.jsonl").write_text("not the trace")
    run = _snakemake(checkout, *arguments, **environment)
    assert run.returncode != 0
    assert "not the right file: its sha256 is" in run.stderr


def _outcomes(results: Path) -> dict[str, str]:
    pictures = sorted((results / "figures").glob("*.png"))
    return {path.stem: saved.read(path).outcome for path in pictures}


@pytest.mark.engine
@pytest.mark.usefixtures("model_made")
def test_papers_own_setting_runs_to_its_claims_however_often_it_is_interrupted(
    checkout: Path,
) -> None:
    """All but the GPU: the same config with the cells of the paper's largest gain, made small."""
    content = yaml.safe_load((checkout / "config/paper.yaml").read_text())
    content |= {"name": "small", "tiers": {"cpu": _SMALL}}
    experiment = content["experiments"]["figure-3"]
    experiment |= {"tier": "cpu", "policies": ["lru", "arc"], "cache_tokens": [50_000]}
    content["experiments"] = {"figure-3": experiment}
    (checkout / "config/small.yaml").write_text(yaml.safe_dump(content))
    arguments = ["figures", "--configfile", "config/small.yaml"]
    results = checkout / "results" / "small"

    for end in (signal.SIGKILL, signal.SIGINT):
        _interrupt(checkout, arguments, results / "cells", end)
    (finished,) = (results / "cells").glob("[!.]*")
    measured = (finished / "summary.json").stat().st_mtime_ns
    run = _snakemake(checkout, *arguments)
    assert run.returncode == 0, run.stderr
    assert (finished / "summary.json").stat().st_mtime_ns == measured
    assert len(list((results / "cells").iterdir())) == 2
    cells = tables.read_cells(results / "cells.csv")
    assert len(cells) == 2
    assert cells["valid"].all()
    assert (results / "figures" / "fig3-cpu.png").stat().st_size > 10_000
    verdicts = {
        (row["id"], row["tier"], row["quantity"]): row
        for row in json.loads((results / "claims.json").read_text())
    }
    # Judged, whatever so few requests say, by the noise of the shipped runs.
    assert verdicts["C1", "cpu", "hit_rate"]["points"][0]["at"] == "50k tokens"
    assert verdicts["C2", "cpu", "ttft"]["noise"] is not None
    assert verdicts["C2", "gpu", "ttft"]["verdict"] == "not run"
    assert "C2" in (results / "report.html").read_text()
    assert "Nothing to be done" in _snakemake(checkout, *arguments).stderr
    _wait_until_gone(checkout)


def _interrupt(checkout: Path, arguments: list[str], cells: Path, end: signal.Signals) -> None:
    """Start a run, and end it while it starts an engine; the second time, with a cell done."""
    run = subprocess.Popen(
        [*_SNAKEMAKE, *arguments],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 400
    done = 0 if end == signal.SIGKILL else 1
    while not list(cells.glob(".*.partial")) or len(list(cells.glob("[!.]*"))) < done:
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.1)
    if end == signal.SIGKILL:
        run.kill()
    else:
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    run.wait(timeout=180)
    _wait_until_gone(checkout)


_SMALL = {
    "model": "tiny-qwen3",
    "dtype": "float32",
    "block_size": 32,
    "threads": 1,
    "scale": 0.0625,
    "requests": 48,
}
