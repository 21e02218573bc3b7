import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest

from figures import fig3, paper, style
from harness import config
from harness.analysis import tables
from harness.cell import Policy
from harness.config import Config
from harness.errors import HarnessError


def _row(**changes: Any) -> dict[str, Any]:
    row = dict.fromkeys(tables._COLUMNS)
    return {
        **row,
        "tier": "cpu",
        "engine": "vllm",
        "policy": "lru",
        "workload": "docqa-quality",
        "mode": "batch",
        "batch_size": 1,
        "cache_tokens": 6240,
        "seed": 42,
        "requests": 512,
        "hit_rate": 0.2,
        "ttft_mean_ms": 40.0,
        "valid": True,
        **changes,
    }


@pytest.fixture
def cpu(root: Path) -> Config:
    return config.load(root / "config" / "cpu.yaml")


CELLS = pd.DataFrame(
    [
        _row(),
        _row(seed=43, hit_rate=0.3),
        _row(policy="arc", hit_rate=0.4),
        _row(policy="arc", cache_tokens=12512, hit_rate=0.5),
        _row(policy="dbl", hit_rate=0.9, valid=False, invalid_reason="too late"),
        _row(engine="vllm-stock", hit_rate=0.2),
    ]
)


def test_draws_means_of_valid_cells_beside_the_papers_points(cpu: Config) -> None:
    figure = fig3.draw(CELLS, cpu)
    text = figure.get_suptitle()
    for said in ("tier cpu", "tiny-qwen3", "1/10", "512 of the paper's 3,072", "1 invalid"):
        assert said in text
    drawn = [list(line.get_ydata()) for line in figure.axes[0].get_lines()]
    assert [0.25] in drawn  # LRU, mean of two seeds
    assert [0.4, 0.5] in drawn  # ARC
    assert [0.9] not in drawn  # the invalid cell
    papers = list(paper.points("fig3a").query("policy == 'arc'")["value"])
    assert papers in drawn
    assert papers == [0.335, 0.424, 0.474, 0.508, 0.539, 0.565]


def test_nothing_valid_is_refused(cpu: Config) -> None:
    with pytest.raises(HarnessError, match="no valid cell of docqa-quality"):
        fig3.draw(CELLS.assign(valid=False), cpu)


def test_command_writes_both_files_whole(tmp_path: Path, root: Path) -> None:
    CELLS.to_csv(tmp_path / "cells.csv", index=False)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "figures.fig3", "config/cpu.yaml", tmp_path / "cells.csv"),
            *(tmp_path / "f" / "fig3.png", tmp_path / "f" / "fig3.pdf"),
        ],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["fig3.pdf", "fig3.png"]
    assert (tmp_path / "f" / "fig3.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "f" / "fig3.pdf").read_bytes().startswith(b"%PDF")


def test_missing_table_is_one_message(tmp_path: Path, root: Path) -> None:
    run = subprocess.run(
        [
            *(sys.executable, "-m", "figures.fig3", "config/cpu.yaml", tmp_path / "none.csv"),
            *(tmp_path / "a.png", tmp_path / "a.pdf"),
        ],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: ")
    assert "Traceback" not in run.stderr


def test_every_policy_has_a_look_of_its_own() -> None:
    policies = set(get_args(Policy))
    assert policies == set(style.COLORS) == set(style.MARKERS) == set(style.LABELS)
    assert len(set(style.COLORS.values())) == len(set(style.MARKERS.values())) == len(policies)


def test_paper_points_are_complete() -> None:
    for figure, values in (("fig3a", 18), ("fig3b", 18), ("fig4a", 18), ("fig5a", 15)):
        assert len(paper.points(figure)) == values
