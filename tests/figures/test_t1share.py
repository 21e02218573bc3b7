from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.drawn import caption
from support.results import results, row

from figures import t1share
from figures.catalogue import FIGURES
from harness.errors import HarnessError

_ENTRY = FIGURES["fig7"]


def _telemetry(folder: Path, cache_tokens: int, t1: list[int]) -> None:
    cell = folder / "cells" / f"arc-{cache_tokens}"
    cell.mkdir(parents=True)
    state = pd.DataFrame({"request": range(len(t1)), "t1": t1, "t2": 0})
    state.to_parquet(cell / "telemetry.parquet")


def test_share_of_the_cache_with_its_median_and_the_papers(root: Path, tmp_path: Path) -> None:
    _telemetry(tmp_path, 50_000, [0, 625, 1250, 3125])
    rows = [
        row(policy="arc", cell="arc-50000"),
        row(policy="arc", seed=43),
        row(policy="arc", cache_tokens=250_000),  # a size that the paper does not show
        row(policy="lru"),
        row(
            policy="arc",
            workload="conversation-bailian-a",
            valid=False,
            invalid_reason="not run: no network",
        ),
    ]
    figure = t1share.draw(results(root, tmp_path, *rows), _ENTRY)
    panel = figure.axes[0]
    lines = [list(line.get_ydata()) for line in panel.get_lines()]  # type: ignore[arg-type]
    assert [0.0, 0.2, 0.4, 1.0] in lines
    assert panel.get_title(loc="left") == "50k tokens\nmedian 0.30, paper 0.18"
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["its median", "T1 / cache", "the paper's median"]
    assert sum(axes.axison for axes in figure.axes) == 1
    assert "Not run: conversation-bailian-a" in figure.get_suptitle().replace("\n", " ")


def test_requests_that_warm_up_are_not_drawn(root: Path, tmp_path: Path) -> None:
    _telemetry(tmp_path, 200_000, [12_500] * 2000 + [1250] * 10)
    cell = row(
        policy="arc",
        workload="conversation-sharegpt",
        cache_tokens=200_000,
        cell="arc-200000",
    )
    figure = t1share.draw(results(root, tmp_path, cell), _ENTRY)
    lines = [list(line.get_ydata()) for line in figure.axes[0].get_lines()]  # type: ignore[arg-type]
    assert [0.1] * 10 in lines


def test_nothing_that_could_be_run_is_a_figure_that_says_why(root: Path, tmp_path: Path) -> None:
    missing = row(policy="arc", workload="conversation-sharegpt", valid=False)
    figure = t1share.draw(
        results(root, tmp_path, missing | {"invalid_reason": "not run: no network"}), _ENTRY
    )
    assert "not run: no network" in " ".join(text.get_text() for text in figure.texts)


def test_sizes_of_the_configs_own_are_drawn_where_none_is_the_papers(
    root: Path, tmp_path: Path
) -> None:
    rows = []
    for size in (40_000, 80_000):
        _telemetry(tmp_path, size, [625, 1250])
        rows.append(row(policy="arc", cache_tokens=size, cell=f"arc-{size}"))
    figure = t1share.draw(results(root, tmp_path, *rows), _ENTRY)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
    assert titles == ["40k tokens\nmedian 0.38", "80k tokens\nmedian 0.19"]


_BROKEN = {"valid": False, "invalid_reason": "2 of 3 requests failed"}
_MISSING = {"valid": False, "invalid_reason": "not run: no network"}


def test_invalid_workload_is_left_out(root: Path, tmp_path: Path) -> None:
    _telemetry(tmp_path, 50_000, [625, 1250])
    rows = [
        row(policy="arc", cell="arc-50000"),
        row(policy="arc", workload="conversation-sharegpt") | _BROKEN,
    ]
    figure = t1share.draw(results(root, tmp_path, *rows), _ENTRY)
    assert "1 invalid cell not drawn." in caption(figure)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row()], "no cell for it"),
        ([row(policy="arc") | _BROKEN], "none of its 1 cells is valid: 2 of 3 requests failed"),
        # What ran and failed is not excused by what could not be had.
        (
            [
                row(policy="arc") | _BROKEN,
                row(policy="arc", workload="conversation-sharegpt") | _MISSING,
            ],
            "none of its 2 cells is valid",
        ),
    ],
)
def test_nothing_valid_is_refused(
    root: Path, tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(HarnessError, match=message):
        t1share.draw(results(root, tmp_path, *rows), _ENTRY)
