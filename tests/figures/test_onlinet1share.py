from pathlib import Path

import pandas as pd
from support.drawn import text, title, x_of, y_of
from support.results import due, experiment, measured, open_loop

from figures import onlinet1share
from figures.catalogue import FIGURES

_ENTRY = FIGURES["online-t1share"]


def test_shares_after_each_turn_of_each_rate(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(
        root,
        tmp_path,
        lambda _: [due(i, 100 * i, 20) for i in range(32)],
        experiment(loads=[open_loop(4), open_loop(8)]),
    )
    blocks = 312  # 100k tokens at a tenth, in blocks of 32
    for name in drawn_from.cells.loc[drawn_from.cells["policy"] == "arc", "folder"]:
        state = pd.DataFrame({"request": [15, 31], "t1": [78, 156], "p": [0.0, 312.0]})
        state.to_parquet(tmp_path / "cells" / name / "telemetry.parquet")
    figure = onlinet1share.draw(drawn_from, _ENTRY)
    assert [title(axes)[-12:] for axes in figure.axes] == ["4 requests/s", "8 requests/s"]
    for axes in figure.axes:
        t1, p = axes.get_lines()
        assert x_of(t1) == x_of(p) == [16, 32]
        assert y_of(t1) == [78 / blocks, 156 / blocks]
        assert y_of(p) == [0.0, 1.0]


def test_not_run_is_a_figure_that_says_why(root: Path, tmp_path: Path) -> None:
    load = experiment(loads=[open_loop(8)])
    figure = onlinet1share.draw(measured(root, tmp_path, lambda _: "no network", load), _ENTRY)
    assert "not run: no network" in text(figure)
