import math
from pathlib import Path

import pytest
from support.drawn import caption, lines, text, title, x_of, y_of
from support.results import CHAT, due, experiment, measured, open_loop, record

from figures import onlinehitrate, style
from figures.catalogue import FIGURES
from harness.cell import CellSpec
from harness.measure.records import RequestRecord

_ENTRY = FIGURES["online-hitrate"]
_RATES = [open_loop(rate) for rate in (2, 4, 8)]


def _made(spec: CellSpec) -> list[RequestRecord]:
    """Make LRU hit nothing, and ARC half of what is asked from the 60th request on."""
    half = 50 if spec.policy == "arc" else 0
    return [
        due(i, 100 * i, 20, window=i // 80, cached_tokens=half if i >= 60 else 0)
        for i in range(120)
    ]


def test_hit_rate_since_the_start_and_of_late(root: Path, tmp_path: Path) -> None:
    figure = onlinehitrate.draw(
        measured(root, tmp_path, _made, experiment(loads=[open_loop(8)])), _ENTRY
    )
    (axes,) = figure.axes
    late, all_so_far = (y_of(line) for line in lines(axes, style.COLORS["arc"]))
    assert all(math.isnan(rate) for rate in late[:49])
    assert late[49:60] == [0] * 11
    assert late[84] == pytest.approx(0.25)
    assert late[109:] == pytest.approx([0.5] * 11)
    assert all_so_far[59] == 0
    assert all_so_far[119] == pytest.approx(0.25)
    assert y_of(lines(axes, style.COLORS["lru"])[1]) == [0] * 120


def test_a_line_where_popularity_is_shuffled_anew(root: Path, tmp_path: Path) -> None:
    load = experiment(loads=[open_loop(8)], policies=["arc"])
    figure = onlinehitrate.draw(measured(root, tmp_path, _made, load), _ENTRY)
    dotted = [line for line in figure.axes[0].get_lines() if line.get_linestyle() == ":"]
    assert [x_of(line) for line in dotted] == [[80, 80]]


def test_requests_are_in_the_order_of_sending(root: Path, tmp_path: Path) -> None:
    def made(spec: CellSpec) -> list[RequestRecord]:
        """Have the second conversation begin first."""
        return [
            record(0, 100, 20, session=0, turn=0, window=None, cached_tokens=0),
            record(1, 0, 20, session=1, turn=0, window=None, cached_tokens=50),
        ]

    figure = onlinehitrate.draw(measured(root, tmp_path, made, experiment(**CHAT)), _ENTRY)
    assert y_of(lines(figure.axes[0], style.COLORS["lru"])[1]) == [0.5, 0.25]


def test_middle_rate_and_first_seed_only(root: Path, tmp_path: Path) -> None:
    load = experiment(loads=_RATES, seeds=[42, 43])
    figure = onlinehitrate.draw(measured(root, tmp_path, _made, load), _ENTRY)
    (axes,) = figure.axes
    assert title(axes) == "Doc-QA: open loop, Poisson arrivals, 4 requests/s"
    assert len(y_of(lines(axes, style.COLORS["arc"])[0])) == 120
    assert "seed 42." in caption(figure)
    assert "43" not in caption(figure)


def test_few_requests_are_drawn(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(
        root,
        tmp_path,
        lambda spec: _made(spec)[:3],
        experiment(loads=[open_loop(8)], cache_tokens=[50_000]),
        experiment(**CHAT | {"cache_tokens": [4000]}),
        base="smoke",
    )
    assert len(onlinehitrate.draw(drawn_from, _ENTRY).axes) == 2


def test_not_run_is_a_figure_that_says_why(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(root, tmp_path, lambda _: "no network", experiment(**CHAT))
    figure = onlinehitrate.draw(drawn_from, _ENTRY)
    assert "not run: no network" in text(figure)
