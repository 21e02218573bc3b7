"""What figures there are, and the command that draws one."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
from support.results import row

from figures import catalogue
from harness import config
from harness.analysis import tables

_POLICIES = "workload,cache_tokens,kind,policy,seeds,hit_rate\n"


def test_every_figure_has_a_module_that_draws() -> None:
    for entry in catalogue.FIGURES.values():
        assert callable(import_module(f"figures.{entry.module}").draw)


def test_config_has_the_figures_of_its_cells(root: Path) -> None:
    cpu = config.load(root / "config" / "cpu.yaml")
    of_gpus = [name for name, entry in catalogue.FIGURES.items() if entry.tier == "gpu"]
    paper = config.load(root / "config" / "paper.yaml")
    assert catalogue.names(paper) == of_gpus
    more = ["fig3-qmsum", "fig5-mooncake", "fig5-cpu"]
    seeds = config.load(root / "config" / "seeds.yaml")
    assert set(more) < set(catalogue.names(seeds))
    on_sglang = ["fig3-sglang", "fig3-sglang-cpu", "fig3-engines"]
    sglang = config.load(root / "config" / "sglang.yaml")
    assert catalogue.names(sglang) == ["fig3", *on_sglang, "fig7"]
    fleet = config.load(root / "config" / "fleet.yaml")
    assert catalogue.names(fleet) == ["fig3", "fig5-sharegpt", "fig7", "fleet"]
    policies = config.load(root / "config" / "policies.yaml")
    past_the_paper = ["adaptation", "unreachable"]
    assert {*past_the_paper, "policies", "fig3-cpu", "fig5-cpu"} < set(catalogue.names(policies))
    sweep = config.load(root / "config" / "sweep.yaml")
    assert catalogue.names(sweep) == ["sweep", "adaptation"]
    apart = [*of_gpus, *more, *on_sglang, *past_the_paper, "fleet"]
    others = [name for name in catalogue.FIGURES if name not in apart]
    assert catalogue.names(cpu) == [*others, "policies"]
    measured = {"figure-3-cpu": cpu.experiments["figure-3-cpu"]}
    fewer = cpu.model_copy(update={"experiments": measured})
    assert catalogue.names(fewer) == ["fig3-cpu"]
    one_batch_size = cpu.model_copy(
        update={"experiments": {"figure-3": cpu.experiments["figure-3"]}}
    )
    assert catalogue.names(one_batch_size) == ["fig3", "fig7", "policies"]


_FIG3 = {
    "tier": "replay",
    "workload": "docqa-quality",
    "policies": ["lru", "arc"],
    "cache_tokens": [50_000],
}
_FIG3_CPU = _FIG3 | {"tier": "cpu"}
_BATCHES = [{"mode": "batch", "batch_size": 8}, {"mode": "batch", "batch_size": 32}]


@pytest.mark.parametrize(
    ("experiment", "names"),
    [
        (_FIG3, ["fig3", "fig7"]),
        (_FIG3 | {"policies": ["lru"]}, ["fig3"]),
        (_FIG3 | {"policies": ["lru", "alrfu"]}, ["fig3", "unreachable"]),
        (_FIG3_CPU | {"policies": ["lru", "alrfu"]}, ["fig3-cpu"]),
        (_FIG3 | {"loads": _BATCHES[:1]}, ["hitrate-docqa-quality"]),
        (_FIG3 | {"loads": _BATCHES}, ["fig6"]),
        (_FIG3_CPU | {"policies": ["lru"]}, ["fig3-cpu"]),
        (_FIG3_CPU | {"policies": ["lru"], "engine": "vllm-stock"}, ["hitrate-docqa-quality-cpu"]),
    ],
)
def test_config_has_the_figures_that_it_has_the_cells_for(
    root: Path, experiment: dict[str, object], names: list[str]
) -> None:
    cpu = config.load(root / "config" / "cpu.yaml")
    other = cpu.model_dump() | {"experiments": {"one": experiment}}
    assert catalogue.names(config.Config.model_validate(other)) == names


def test_workload_that_no_figure_knows_by_name_has_figures_and_a_study_two_more(
    root: Path,
) -> None:
    cpu = config.load(root / "config" / "cpu.yaml")
    own = {
        "tiers": {"replay": {"block_size": 16}},
        "workloads": {"mine": {"kind": "docqa"}},
        "experiments": {"one": _FIG3 | {"workload": "mine"}},
        "rivals": (),
    }
    made = config.Config.model_validate(cpu.model_dump() | own)
    assert catalogue.names(made) == ["hitrate-mine", "t1share-mine"]
    study = {
        "cache_tokens": 50_000,
        "model": "m",
        "kv_bytes_per_token": 1,
        "base_ms": 0,
        "ms_per_token": 1,
        "ttft_from": "x",
    }
    asked = config.Config.model_validate(cpu.model_dump() | own | {"study": study})
    assert catalogue.names(asked) == ["hitrate-mine", "why-mine", "where-mine", "t1share-mine"]


def test_every_cell_of_the_shipped_configs_is_in_a_figure(root: Path) -> None:
    for path in (root / "config").glob("*.yaml"):
        given = config.load(path)
        entries = catalogue.entries(given).values()
        assert [
            name
            for name, cell in given.cells.items()
            if not any(entry.shows(cell) for entry in entries)
        ] == [], path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pd.DataFrame([row()], columns=list(tables.COLUMNS)).to_csv(tmp_path / "cells.csv", index=False)
    (tmp_path / "policies.csv").write_text(_POLICIES)
    return tmp_path


def _draw(root: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "figures", "fig3", "config/cpu.yaml", str(folder)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_writes_both_files_whole(root: Path, folder: Path) -> None:
    run = _draw(root, folder)
    assert run.returncode == 0, run.stderr
    assert sorted(path.name for path in (folder / "figures").iterdir()) == ["fig3.pdf", "fig3.png"]
    assert (folder / "figures" / "fig3.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "figures" / "fig3.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("missing", ["cells.csv", "policies.csv"])
def test_missing_table_is_one_message(root: Path, folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    run = _draw(root, folder)
    assert run.returncode == 1
    assert run.stderr.startswith("error: ")
    assert missing in run.stderr
    assert "Traceback" not in run.stderr
    assert not (folder / "figures").exists()
