from pathlib import Path
from typing import Any

import pytest
from support.drawn import caption, legend, y_of
from support.results import results, row

from figures import sweep
from figures.catalogue import Entry
from harness.errors import HarnessError

_ENTRY = Entry("Sweep", "sweep", "replay", ("docqa-quality", "conversation-sharegpt"))
_GHOSTS = {"alrfu:MAX_GHOSTS=16": 0.34, "alrfu:MAX_GHOSTS=0": 0.28, "alrfu:MAX_GHOSTS=4": 0.33}
_HALF_LIVES = {"alrfu:HALF_LIVES=0+8": 0.31}


def _rows(hit_rates: dict[str, float], **changes: Any) -> list[dict[str, Any]]:
    return [
        row(policy=policy, hit_rate=rate, **changes)
        for policy, rate in ({"lru": 0.2, "alrfu": 0.32} | hit_rates).items()
    ]


def test_points_over_lru_a_column_a_constant_in_the_order_of_its_values(
    root: Path, tmp_path: Path
) -> None:
    more = {policy: rate + 0.02 for policy, rate in _GHOSTS.items()}
    figure = sweep.draw(
        results(
            root,
            tmp_path,
            *_rows(_GHOSTS | _HALF_LIVES),
            *_rows(more, seed=43),
            *_rows(_GHOSTS, workload="conversation-sharegpt", cache_tokens=100_000),
            row(policy="alrfu:MAX_GHOSTS=8", valid=False, invalid_reason="lost"),
        ),
        _ENTRY,
    )
    ghosts, half_lives, others = (axes for axes in figure.axes if axes.axison)
    assert ghosts.get_title(loc="left") == "docqa-quality\nalrfu: MAX_GHOSTS"
    assert half_lives.get_title(loc="left") == "docqa-quality\nalrfu: HALF_LIVES"
    assert others.get_title(loc="left") == "conversation-sharegpt\nalrfu: MAX_GHOSTS"
    # Means of the seeds; as it is, dashed.
    means, as_is = ghosts.get_lines()
    assert y_of(means) == pytest.approx([9, 14, 15])
    assert y_of(as_is) == pytest.approx([12, 12])
    assert [label.get_text() for label in ghosts.get_xticklabels()] == ["0", "4", "16"]
    assert [label.get_text() for label in half_lives.get_xticklabels()] == ["0, 8"]
    assert legend(ghosts.get_legend()) == ["50k"]
    assert legend(others.get_legend()) == ["100k"]
    assert "1 invalid cell not drawn." in caption(figure)


def test_nothing_to_compare_is_refused(root: Path, tmp_path: Path) -> None:
    alone = row(policy="alrfu:MAX_GHOSTS=0")
    with pytest.raises(HarnessError, match="no variant of a policy has a cell of LRU"):
        sweep.draw(results(root, tmp_path, alone), _ENTRY)
    broken = row(policy="alrfu", valid=False, invalid_reason="2 of 3 requests failed")
    with pytest.raises(HarnessError, match="2 of 3 requests failed"):
        sweep.draw(results(root, tmp_path, broken), _ENTRY)


def test_nothing_that_could_be_run_is_a_figure_that_says_why(root: Path, tmp_path: Path) -> None:
    missing = row(policy="alrfu", valid=False, invalid_reason="not run: no network")
    figure = sweep.draw(results(root, tmp_path, missing), _ENTRY)
    assert "not run: no network" in caption(figure)
