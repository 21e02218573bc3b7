import math
from pathlib import Path
from typing import Any

import pytest
from support.drawn import bars, caption, text
from support.results import results, row

from figures import batchsize
from figures.catalogue import FIGURES
from harness.errors import HarnessError

_ENTRY = FIGURES["fig6"]


def test_a_bar_for_each_policy_and_batch_size(root: Path, tmp_path: Path) -> None:
    rows = [
        row(policy=policy, batch_size=size, cache_tokens=200_000, seed=seed, hit_rate=rate + seed)
        for policy, rate in (("lru", 0.1), ("dbl", 0.2), ("arc", 0.3))
        for size in (1, 8, 32)
        for seed in (0, 1)
    ]
    rows.append(row(policy="arc", cache_tokens=50_000, hit_rate=0.9))
    # A seed that the other batch sizes do not have.
    rows.append(row(policy="arc", cache_tokens=200_000, seed=2, hit_rate=0.99))
    rows.append(row(policy="slru", cache_tokens=200_000, hit_rate=0.95))
    figure = batchsize.draw(results(root, tmp_path, *rows), _ENTRY)
    heights = sorted(round(patch.get_height(), 3) for patch in figure.axes[0].patches)  # type: ignore[attr-defined]
    assert heights == [0.6] * 3 + [0.7] * 3 + [0.8] * 3
    papers = [list(line.get_ydata()) for line in figure.axes[0].get_lines()]  # type: ignore[arg-type]
    assert [0.507, 0.504, 0.504] in papers
    assert "Tier replay" in figure.get_suptitle()


def _cells(*sizes: tuple[int, int], **changes: Any) -> list[dict[str, Any]]:
    """Return cells of cache sizes and batch sizes."""
    return [row(cache_tokens=cache, batch_size=batch, **changes) for cache, batch in sizes]


@pytest.mark.parametrize(
    ("sizes", "chosen", "papers"),
    [
        ([(200_000, 1), (200_000, 8), (50_000, 1), (50_000, 8)], "200,000", True),
        ([(80_000, 1), (80_000, 8), (40_000, 1), (40_000, 8)], "40,000", False),
        # Of one batch size there is nothing to compare.
        ([(200_000, 1), (40_000, 1), (80_000, 1), (80_000, 8)], "80,000", False),
    ],
)
def test_one_cache_size_is_drawn_the_papers_if_it_can_be(
    root: Path, tmp_path: Path, sizes: list[tuple[int, int]], chosen: str, papers: bool
) -> None:
    figure = batchsize.draw(results(root, tmp_path, *_cells(*sizes)), _ENTRY)
    said = caption(figure)
    assert f"cache of {chosen} tokens" in said
    assert ("where the paper has 200k" in said) is not papers
    assert bars(figure.axes[0]) == [0.2, 0.2]


def test_policies_and_batch_sizes_that_are_missing_leave_room(root: Path, tmp_path: Path) -> None:
    rows = _cells((200_000, 1), (200_000, 8)) + _cells((200_000, 8), policy="arc", hit_rate=0.5)
    figure = batchsize.draw(results(root, tmp_path, *rows), _ENTRY)
    heights = bars(figure.axes[0])
    assert math.isnan(heights.pop(2))
    assert heights == [0.2, 0.2, 0.5]


def test_batch_sizes_without_a_seed_in_common_are_not_compared(root: Path, tmp_path: Path) -> None:
    rows = _cells((200_000, 1)) + _cells((200_000, 8), seed=43)
    assert batchsize.draw(results(root, tmp_path, *rows), _ENTRY).axes


def test_nothing_valid_is_refused_or_was_not_run(root: Path, tmp_path: Path) -> None:
    sizes = (200_000, 1), (200_000, 8)
    broken = _cells(*sizes, valid=False, invalid_reason="too late")
    with pytest.raises(HarnessError, match="none of its 2 cells is valid: too late"):
        batchsize.draw(results(root, tmp_path, *broken), _ENTRY)
    missing = _cells(*sizes, valid=False, invalid_reason="not run: no network")
    assert "not run: no network" in text(batchsize.draw(results(root, tmp_path, *missing), _ENTRY))
