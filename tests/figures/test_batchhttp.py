import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure
from support.drawn import bars, caption, legend, text, whiskered, y_of
from support.results import experiment, measured, record

from figures import batchhttp
from figures.catalogue import FIGURES
from harness.analysis.stats import blocks
from harness.cell import BatchHTTP, CellSpec
from harness.errors import HarnessError
from harness.measure import validity
from harness.measure.records import RequestRecord

_ENTRY = FIGURES["fig6-cpu"]
_FAILED = {"status": "truncated", "error": "cut off"}
_LOADS = [{"mode": "batch-http", "batch_size": size} for size in (8, 1)]
_GRID = experiment(cache_tokens=[200_000], loads=_LOADS)
_COUNT = 64
# Times LRU: where ARC loses, and where it wins.
_FACTORS = {1: 1.1, 8: 0.9}


def _factor(spec: CellSpec) -> float:
    assert isinstance(spec.load, BatchHTTP)
    return _FACTORS[spec.load.batch_size] if spec.policy == "arc" else 1.0


def _made(spec: CellSpec) -> list[RequestRecord]:
    cached = 40 if spec.policy == "arc" else 30
    ttfts = _factor(spec) * np.random.default_rng(spec.seed).uniform(100, 200, _COUNT)
    return [
        record(i, 500 * i, ttft, cached_tokens=cached + spec.seed - 42)
        for i, ttft in enumerate(ttfts)
    ]


def _ratios(figure: Figure) -> list[list[float]]:
    return [points.y for points in whiskered(figure.axes[1])]


def test_hit_rates_and_ratios_of_mean_ttft_beside_the_papers(root: Path, tmp_path: Path) -> None:
    figure = batchhttp.draw(measured(root, tmp_path, _made, _GRID), _ENTRY)
    hit_rate, ratio = figure.axes
    assert [label.get_text() for label in ratio.get_xticklabels()] == ["1", "8"]
    assert bars(figure.axes[0]) == [0.3, 0.3, 0.4, 0.4]
    # Above 1 where ARC loses.
    assert _ratios(figure) == [pytest.approx([1.1, 0.9])]
    papers = [y_of(line) for line in hit_rate.get_lines()]
    assert [0.472, 0.471] in papers
    assert [0.507, 0.504] in papers
    papers = [y_of(line) for line in ratio.get_lines()]
    assert [0.94, 0.94] in papers
    assert legend(hit_rate.get_legend()) == ["LRU", "paper, LRU", "ARC", "paper, ARC"]
    assert legend(figure.axes[1].get_legend()) == ["ARC", "paper, ARC", "ARC, through hits"]
    said = caption(figure)
    assert (
        "cache of 20,000 tokens (200k at the paper's scale); 64 requests a cell, seed 42." in said
    )
    # One seed has no spread.
    assert "Mean of the seeds" not in said


def test_all_that_is_drawn_is_in_view(root: Path, tmp_path: Path) -> None:
    figure = batchhttp.draw(measured(root, tmp_path, _made, _GRID), _ENTRY)
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert low <= axes.dataLim.y0 < axes.dataLim.y1 < high


def test_bars_are_means_of_the_seeds_with_their_spread(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(root, tmp_path, _made, _GRID | {"seeds": [42, 44]})
    figure = batchhttp.draw(drawn_from, _ENTRY)
    assert bars(figure.axes[0]) == [0.31, 0.31, 0.41, 0.41]
    lru, _ = whiskered(figure.axes[0])
    assert lru.ends == [pytest.approx([0.3, 0.32])] * 2
    (arc,) = whiskered(figure.axes[1])
    assert arc.y == pytest.approx([1.1, 0.9])
    # Requests are paired with those of the same seed: each takes exactly so much longer.
    assert arc.ends == [pytest.approx([1.1, 1.1]), pytest.approx([0.9, 0.9])]
    assert "Mean of the seeds, whiskers from the least to the largest." in caption(figure)


def test_interval_of_a_ratio_is_over_whole_batches(root: Path, tmp_path: Path) -> None:
    def made(spec: CellSpec) -> list[RequestRecord]:
        """Make all requests of a batch of 8 alike, and batches not."""
        ttfts = np.full(96, 100.0)
        if spec.policy == "arc":
            ttfts *= np.repeat(np.random.default_rng(1).uniform(0.5, 1.5, 12), 8)
        return [record(i, 500 * i, ttft) for i, ttft in enumerate(ttfts)]

    figure = batchhttp.draw(measured(root, tmp_path, made, _GRID), _ENTRY)
    (arc,) = whiskered(figure.axes[1])
    # By hand: means of 12 batches, drawn with replacement. Blocks of any requests would be of 10.
    assert np.bincount(blocks(96)).tolist() == [10] * 8 + [16]
    rng = np.random.default_rng(1)
    batches = rng.uniform(0.5, 1.5, 12)
    # Wider by what 12 understate: t(0.975, 11) sqrt(12 / 11) = 2.299, which 1.076 % are beyond.
    expected = np.percentile(rng.choice(batches, (20_000, 12)).mean(1), [1.076, 98.924])
    width = expected[1] - expected[0]
    assert arc.ends[1] == pytest.approx(list(expected), abs=0.08 * width)


def test_equal_cells_are_the_noise(root: Path, tmp_path: Path) -> None:
    def made(spec: CellSpec) -> list[RequestRecord]:
        rows = _made(spec)
        if not spec.repeat:
            return rows
        return [
            record(i, 500 * i, 1.02 * (row.ttft_ms or 0), cached_tokens=row.cached_tokens)
            for i, row in enumerate(rows)
        ]

    again = _GRID | {"policies": ["lru"], "repeats": 2}
    figure = batchhttp.draw(measured(root, tmp_path, made, _GRID, again), _ENTRY)
    assert _ratios(figure) == [pytest.approx([1.1, 0.9])]
    shaded = figure.axes[1].collections
    (band,) = [drawn for drawn in shaded if isinstance(drawn, FillBetweenPolyCollection)]
    # Two pairs, each off by 2 % of a mean that is 1 % higher: t(0.975, 2) = 4.303.
    assert band.get_paths()[0].vertices.max(0)[1] == pytest.approx(1.0852, abs=2e-3)
    assert re.search(r"by up to 8\.[567] % in 95 % of cases", caption(figure))
    assert len(bars(figure.axes[0])) == 4


def test_ratios_are_of_the_seeds_that_both_have(root: Path, tmp_path: Path) -> None:
    def made(spec: CellSpec) -> list[RequestRecord]:
        rows = _made(spec)
        broken = record(_COUNT, 500 * _COUNT, 9e4, **_FAILED)
        return [*rows, broken] if (spec.policy, spec.seed) == ("lru", 43) else rows

    drawn_from = measured(root, tmp_path, made, _GRID | {"seeds": [42, 43]})
    figure = batchhttp.draw(drawn_from, _ENTRY)
    assert bars(figure.axes[0]) == [0.3, 0.3, 0.4, 0.4]
    assert "seed 42." in caption(figure)
    assert "2 invalid cells not drawn." in caption(figure)


def test_failed_requests_are_in_no_ratio(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validity, "MAX_ERROR_RATE", 0.5)

    def made(spec: CellSpec) -> list[RequestRecord]:
        """Have another request fail under each policy, long after its first token."""
        rows = _made(spec)
        rows[3 if spec.policy == "arc" else 5] = record(
            3 if spec.policy == "arc" else 5, 0, 1e6, **_FAILED
        )
        return rows

    figure = batchhttp.draw(measured(root, tmp_path, made, _GRID), _ENTRY)
    assert _ratios(figure) == [pytest.approx([1.1, 0.9])]


def test_another_cache_than_the_papers_is_said(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(root, tmp_path, _made, _GRID | {"cache_tokens": [100_000, 50_000]})
    said = caption(batchhttp.draw(drawn_from, _ENTRY))
    assert "cache of 4,992 tokens (50k at the paper's scale), where the paper has 200k;" in said
    both = measured(root, tmp_path / "both", _made, _GRID | {"cache_tokens": [50_000, 200_000]})
    assert "cache of 20,000 tokens" in caption(batchhttp.draw(both, _ENTRY))


def test_one_policy_and_one_batch_size_are_drawn(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(
        root, tmp_path, _made, _GRID | {"policies": ["lru"], "loads": _LOADS[:1]}, base="smoke"
    )
    figure = batchhttp.draw(drawn_from, _ENTRY)
    assert bars(figure.axes[0]) == [0.3]
    assert not _ratios(figure)


def test_not_run_is_a_figure_that_says_why(root: Path, tmp_path: Path) -> None:
    figure = batchhttp.draw(measured(root, tmp_path, lambda _: "no network", _GRID), _ENTRY)
    assert "not run: no network" in text(figure)


def test_nothing_valid_is_refused(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(root, tmp_path, lambda _: [record(0, 0, 20, **_FAILED)], _GRID)
    with pytest.raises(HarnessError, match="none of its 4 cells is valid"):
        batchhttp.draw(drawn_from, _ENTRY)


@pytest.mark.parametrize("policy", ["lru", "arc"])
def test_one_policy_alone_has_hit_rates_only(root: Path, tmp_path: Path, policy: str) -> None:
    alone = _GRID | {"policies": [policy]}
    figure = batchhttp.draw(measured(root, tmp_path, _made, alone), _ENTRY)
    hit_rate, ratio = figure.axes
    assert len(bars(hit_rate)) == 2
    assert [said.get_text() for said in ratio.texts] == [
        "no cells of LRU and of another policy to compare"
    ]
