import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from support.results import results, row

from figures import cachesize
from figures.catalogue import FIGURES
from harness.analysis import paper
from harness.errors import HarnessError

_FIG3 = FIGURES["fig3"]


def _drawn(figure: Figure, panel: int) -> list[list[float]]:
    lines = figure.axes[panel].get_lines()
    return [np.asarray(line.get_ydata(), float).tolist() for line in lines]


def test_draws_means_of_valid_cells_beside_the_papers_points_and_the_optimum(
    root: Path, tmp_path: Path
) -> None:
    rows = [
        row(hit_rate=0.2),
        row(hit_rate=0.3, seed=43, ttft_mean_ms=500.0),
        row(policy="arc", hit_rate=0.4),
        row(policy="arc", hit_rate=0.5, cache_tokens=100_000),
        row(policy="dbl", hit_rate=0.9, valid=False, invalid_reason="too late"),
        row(policy="arc", hit_rate=0.8, batch_size=8),
        row(policy="arc", hit_rate=0.7, tier="cpu", engine="vllm"),
    ]
    figure = cachesize.draw(results(root, tmp_path, *rows), _FIG3)
    text = figure.get_suptitle().replace("\n", " ")
    for said in ("Tier replay", "without a model", "381 documents of synthetic text", "1 invalid"):
        assert said in text
    assert "predicted from our hit rates" in text
    assert "predicted" in figure.axes[1].get_title(loc="left")
    hit_rates, ttfts = _drawn(figure, 0), _drawn(figure, 1)
    assert [0.25] in hit_rates
    assert [0.4, 0.5] in hit_rates
    assert [0.45] in hit_rates
    assert not {0.9, 0.8, 0.7} & {y for line in hit_rates for y in line}
    assert [450.0] in ttfts
    published = paper.joined("docqa-quality").query("policy == 'arc'")
    assert list(published["hit_rate"]) in hit_rates
    assert list(published["ttft_mean"]) in ttfts


def test_interval_is_of_the_seeds(root: Path, tmp_path: Path) -> None:
    rows = [row(hit_rate=rate, seed=seed) for seed, rate in enumerate((0.1, 0.2, 0.3, 0.4, 0.5))]
    figure = cachesize.draw(results(root, tmp_path, *rows), _FIG3)
    (bars, *_) = figure.axes[0].collections
    ((low, high),) = [segment[:, 1] for segment in bars.get_segments()]  # type: ignore[attr-defined]
    # t(0.975, 4) = 2.776, standard error = sqrt(0.025 / 5).
    assert high - low == pytest.approx(2 * 2.776 * math.sqrt(0.005), rel=1e-3)


def test_workload_that_the_paper_did_not_run_has_one_panel(root: Path, tmp_path: Path) -> None:
    cell: dict[str, Any] = {"workload": "conversation-sharegpt", "ttft_kind": None}
    rows = [row(**cell, cache_tokens=size, ttft_mean_ms=None) for size in (30_000, 300_000)]
    figure = cachesize.draw(results(root, tmp_path, *rows), FIGURES["fig5-sharegpt"])
    assert len(figure.axes) == 1
    assert figure.axes[0].get_xscale() == "log"
    assert "after 2,000 that warm the cache" in figure.get_suptitle().replace("\n", " ")


def test_cells_that_could_not_be_run_are_a_figure_that_says_why(root: Path, tmp_path: Path) -> None:
    missing = row(
        workload="conversation-bailian-a", valid=False, invalid_reason="not run: no network: get it"
    )
    figure = cachesize.draw(results(root, tmp_path, missing), FIGURES["fig5"])
    texts = " ".join(text.get_text() for text in figure.texts)
    assert "Figure 5" in texts
    assert "not run: no network: get it" in texts


def test_nothing_valid_is_refused(root: Path, tmp_path: Path) -> None:
    broken = row(valid=False, invalid_reason="2 of 3 requests failed")
    late = row(valid=False, invalid_reason="too late", policy="arc")
    with pytest.raises(
        HarnessError,
        match="none of its 3 cells is valid: 2 of 3 requests failed, and 1 more reason",
    ):
        cachesize.draw(results(root, tmp_path, late, broken, broken | {"seed": 43}), _FIG3)


def test_one_policy_is_drawn_alone_whichever_it_is(root: Path, tmp_path: Path) -> None:
    for policy in ("lru", "slru"):
        figure = cachesize.draw(results(root, tmp_path, row(policy=policy)), _FIG3)
        assert [0.2] in _drawn(figure, 0)


def test_nothing_hit_is_a_line_at_zero(root: Path, tmp_path: Path) -> None:
    cell = row(workload="conversation-sharegpt", ttft_kind=None, ttft_mean_ms=None, hit_rate=0.0)
    figure = cachesize.draw(results(root, tmp_path, cell), FIGURES["fig5-sharegpt"])
    assert [0.0] in _drawn(figure, 0)
