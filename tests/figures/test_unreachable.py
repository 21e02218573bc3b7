from pathlib import Path
from typing import Any

import pytest
from support.drawn import caption, y_of
from support.results import results, row

from figures import unreachable
from figures.catalogue import Entry
from harness.errors import HarnessError

_ENTRY = Entry("Unreachable", "unreachable", "replay", ("docqa-quality", "conversation-sharegpt"))


def _rows() -> list[dict[str, Any]]:
    shares = {
        ("docqa-quality", "arc", 50_000): (0.02, 0.04),
        ("docqa-quality", "arc", 300_000): (0.01, 0.01),
        ("docqa-quality", "alrfu", 50_000): (0.0, 0.0),
        ("docqa-quality", "alrfu", 300_000): (0.0, 0.0),
        ("conversation-sharegpt", "arc", 50_000): (0.3, 0.3),
    }
    return [
        row(workload=workload, policy=policy, cache_tokens=size, seed=seed, unreachable=share)
        for (workload, policy, size), of_seeds in shares.items()
        for seed, share in enumerate(of_seeds)
    ]


def test_means_of_the_seeds_in_percent_a_panel_a_workload(root: Path, tmp_path: Path) -> None:
    more = [
        row(policy="arc", batch_size=8, unreachable=0.9),
        row(policy="arc", valid=False, invalid_reason="lost", unreachable=0.9),
    ]
    figure = unreachable.draw(results(root, tmp_path, *_rows(), *more), _ENTRY)
    first, second = (axes for axes in figure.axes if axes.axison)
    assert first.get_title(loc="left") == "docqa-quality"
    assert [y_of(line) for line in first.get_lines()] == [
        pytest.approx([3, 1]),
        pytest.approx([0, 0]),
    ]
    assert [y_of(line) for line in second.get_lines()] == [pytest.approx([30])]
    # One scale, which ends above the largest.
    assert first.get_ylim() == second.get_ylim() == pytest.approx((0, 30 * 1.08))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ARC", "ALRFU"]
    assert "1 invalid cell not drawn." in caption(figure)


def test_cells_in_which_it_was_not_counted_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="it was not counted"):
        unreachable.draw(results(root, tmp_path, row(policy="arc")), _ENTRY)
    broken = row(policy="arc", valid=False, invalid_reason="2 of 3 requests failed")
    with pytest.raises(HarnessError, match="2 of 3 requests failed"):
        unreachable.draw(results(root, tmp_path, broken), _ENTRY)


def test_nothing_that_could_be_run_is_a_figure_that_says_why(root: Path, tmp_path: Path) -> None:
    missing = row(policy="arc", valid=False, invalid_reason="not run: no network")
    figure = unreachable.draw(results(root, tmp_path, missing), _ENTRY)
    assert "not run: no network" in caption(figure)
