"""Figures and claims of tier gpu, which no run has had yet: from the CPU's shipped results.

They are given the other tier's name here and nowhere else, to go through the code that a GPU's
results will.
"""

import json
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from figures import catalogue, saved
from harness import cli
from harness import config as configs
from harness.analysis import paper

_BAILIAN = "conversation-bailian-a"


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped results of tier cpu as if of tier gpu, doc-QA's for the paper's trace, too."""
    folder = tmp_path_factory.mktemp("gpu")
    content = yaml.safe_load((root / "reference" / "cpu" / "config.yaml").read_text())
    content["tiers"] = {"gpu": content["tiers"]["cpu"]}
    trace = {"kind": "trace", "dataset": "bailian-a", "format": "bailian", "length_max": 4000}
    content["workloads"][_BAILIAN] = trace
    content["rivals"] = []
    grids = {
        name: {**grid, "tier": "gpu"}
        for name, grid in content["experiments"].items()
        if grid["tier"] == "cpu" and grid["workload"] == "docqa-quality"
    }
    in_process = {"tier": "gpu", "workload": _BAILIAN, "policies": ["lru", "arc"], "seeds": [42]}
    grids["figure-5"] = in_process | {"cache_tokens": [4992, 20_000]}
    content["experiments"] = grids
    (folder / "config.yaml").write_text(yaml.safe_dump(content))

    cells = pd.read_csv(root / "reference" / "cpu" / "cells.csv")
    cells = cells[(cells["tier"] == "cpu") & (cells["workload"] == "docqa-quality")]
    cells = cells.assign(tier="gpu")
    of_trace = cells[(cells["mode"] == "batch") & (cells["repeat"] == 0)]
    of_trace = of_trace.assign(
        workload=_BAILIAN, cell=of_trace["cell"].str.replace("docqa-quality", _BAILIAN)
    )
    cells = pd.concat([cells, of_trace])
    assert set(cells["cell"]) == set(configs.load(folder / "config.yaml").cells)
    cells.to_csv(folder / "cells.csv", index=False)
    (folder / "policies.csv").write_text("workload,cache_tokens,kind,policy,seeds,hit_rate\n")
    shutil.copytree(root / "reference" / "cpu" / "cells", folder / "cells")
    return folder


def test_figures_are_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["figures", "all", str(folder / "config.yaml"), str(folder)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert import_module("figures.__main__").main() == 0
    names = [name for name, entry in catalogue.FIGURES.items() if entry.tier == "gpu"]
    assert catalogue.names(configs.load(folder / "config.yaml")) == names
    for name in names:
        found = saved.read(folder / "figures" / f"{name}.png")
        assert found.outcome == "drawn", found.caption
        assert found.caption.startswith(f"{catalogue.FIGURES[name].title}. Tier gpu: real vLLM")


def _judged(
    config: Path, results: Path, output: Path, tier: str = "gpu"
) -> dict[tuple[str, str], dict[str, Any]]:
    assert cli.main(["judge", str(config), str(results), "--output", str(output)]) == 0
    rows = json.loads(output.read_text())
    return {(row["id"], row["quantity"]): row for row in rows if row["tier"] == tier}


def test_claims_are_judged_against_the_papers_values(
    root: Path, folder: Path, tmp_path: Path
) -> None:
    gpu = _judged(folder / "config.yaml", folder, tmp_path / "gpu.json")
    reference = root / "reference" / "cpu"
    cpu = _judged(reference / "config.yaml", reference, tmp_path / "cpu.json", tier="cpu")
    for key in (("C1", "hit_rate"), ("C2", "ttft"), ("C5", "hit_rate"), ("C5", "ttft")):
        assert gpu[key]["figure"].endswith("-gpu")
        assert gpu[key]["ours"] == pytest.approx(cpu[key]["ours"])
    assert gpu["C1", "hit_rate"]["verdict"] == "reproduced"
    # The paper's own, at 50k and 200k, not its line at our hit rates.
    published = paper.comparable("docqa-quality").pivot_table(
        index="cache_tokens", columns="policy", values="ttft_mean"
    )
    effects = 100 * (published["arc"] / published["lru"] - 1)
    expected = [point["paper"] for point in gpu["C2", "ttft"]["points"]]
    assert expected == pytest.approx(list(effects[[50_000, 200_000]]))
    assert gpu["C2", "ttft"]["paper"] != pytest.approx(cpu["C2", "ttft"]["paper"], rel=0.01)
    assert gpu["O1", "ttft"]["verdict"] == cpu["O1", "ttft"]["verdict"] == "undecided"
