from pathlib import Path
from typing import Any

import pytest
from support.drawn import y_of
from support.results import results, row

from figures import measured
from figures.catalogue import FIGURES
from harness.analysis import paper
from harness.errors import HarnessError

_ENTRY = FIGURES["fig3-cpu"]
_CPU: dict[str, Any] = {"tier": "cpu", "engine": "vllm", "requests": 512, "cache_tokens": 4992}
# What its load is looked up by, where cells are alike.
_CPU["cell"] = "docqa-quality-batch1-4992-s42-vllm-lru"


def test_draws_means_of_valid_cells_beside_the_papers_points(root: Path, tmp_path: Path) -> None:
    rows = [
        row(**_CPU),
        row(**_CPU, seed=43) | {"hit_rate": 0.3},
        row(**_CPU, policy="arc") | {"hit_rate": 0.4},
        row(**_CPU, policy="arc") | {"cache_tokens": 9984, "hit_rate": 0.5},
        row(**_CPU, policy="dbl", valid=False, invalid_reason="too late") | {"hit_rate": 0.9},
        row(**_CPU) | {"engine": "vllm-stock"},
        row(hit_rate=0.8),
    ]
    figure = measured.draw(results(root, tmp_path, *rows), _ENTRY)
    text = figure.get_suptitle().replace("\n", " ")
    for said in ("Tier cpu", "tiny-qwen3", "1/10", "512 of the paper's 3,072", "1 invalid"):
        assert said in text
    drawn = [list(line.get_ydata()) for line in figure.axes[0].get_lines()]  # type: ignore[arg-type]
    assert [0.25] in drawn
    assert [0.4, 0.5] in drawn
    assert [0.9] not in drawn
    assert [0.8] not in drawn
    papers = list(paper.joined("docqa-quality").query("policy == 'arc'")["hit_rate"])
    assert papers in drawn
    assert papers == [0.335, 0.424, 0.474, 0.508, 0.539, 0.565]
    # There is none of ours to hold it against.
    assert list(paper.joined("docqa-quality").query("policy == 'dbl'")["hit_rate"]) not in drawn


def test_conversations_are_drawn_at_their_own_size_beside_the_trace_they_stand_in_for(
    root: Path, tmp_path: Path
) -> None:
    cell = _CPU | {"workload": "conversation-short", "cache_tokens": 7200, "requests": 155}
    drawn_from = results(root, tmp_path, row(**cell), base="seeds")
    figure = measured.draw(drawn_from, FIGURES["fig5-cpu"])
    text = figure.get_suptitle().replace("\n", " ")
    for said in ("Conversations of ShareGPT", "155 requests", "of conversation-bailian-a"):
        assert said in text
    assert "at the paper's scale" not in figure.axes[0].get_xlabel()
    papers = paper.comparable("conversation-short").query("policy == 'lru'")
    drawn = [list(line.get_xdata()) for line in figure.axes[0].get_lines()]  # type: ignore[arg-type]
    assert list(papers["cache_tokens"] / 1000) in drawn


def test_cells_that_could_not_be_run_are_a_figure_that_says_why(root: Path, tmp_path: Path) -> None:
    missing = row(
        tier="cpu",
        engine="vllm",
        workload="conversation-short",
        valid=False,
        invalid_reason="not run: no network",
    )
    drawn_from = results(root, tmp_path, missing, base="seeds")
    figure = measured.draw(drawn_from, FIGURES["fig5-cpu"])
    assert "not run: no network" in " ".join(text.get_text() for text in figure.texts)


def test_nothing_valid_is_refused(root: Path, tmp_path: Path) -> None:
    broken = row(**_CPU, valid=False, invalid_reason="x")
    stock = row(**_CPU) | {"engine": "vllm-stock"}
    with pytest.raises(HarnessError, match="none of its 1 cells is valid: x"):
        measured.draw(results(root, tmp_path, broken, stock), _ENTRY)


def test_policies_that_the_paper_has_not_are_drawn_without_it(root: Path, tmp_path: Path) -> None:
    # Equal cells without LRU: there is noise, but no line to shade it around.
    cell = row(**_CPU, policy="slru")
    figure = measured.draw(results(root, tmp_path, cell, cell | {"repeat": 1}), _ENTRY)
    hit_rate, _, papers, _ = figure.axes
    assert [0.2] in [y_of(line) for line in hit_rate.get_lines()]
    assert [text.get_text() for text in papers.texts] == ["the paper has none of these policies"]
    # It shares them with the panel above.
    assert len(papers.get_xticks())
