from pathlib import Path

import pytest
from support.drawn import caption, lines, text, title, x_of, y_of
from support.results import CHAT, due, experiment, measured, open_loop, record

from figures import onlinettft, style
from figures.catalogue import FIGURES
from harness.cell import CellSpec
from harness.measure.records import RequestRecord

_ENTRY = FIGURES["online-ttft"]


def _made(spec: CellSpec) -> list[RequestRecord]:
    """Make ARC twice as slow."""
    factor = 2 if spec.policy == "arc" else 1
    if spec.load.mode == "closed-loop":
        return [record(i, 100 * i, 10 * factor, session=i, turn=0) for i in range(4)]
    ttfts = 400, 100, 300, 200
    return [due(i, 100 * i, factor * ttft) for i, ttft in enumerate(ttfts)]


def test_share_of_requests_that_wait_no_longer(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(root, tmp_path, _made, experiment(loads=[open_loop(8)]))
    figure = onlinettft.draw(drawn_from, _ENTRY)
    (axes,) = figure.axes
    for policy, factor in (("lru", 1), ("arc", 2)):
        steps, markers = lines(axes, style.COLORS[policy])
        assert x_of(steps) == [factor * x for x in (100, 200, 300, 400)]
        assert y_of(steps) == [0.25, 0.5, 0.75, 1]
        # numpy's percentiles of these four: 100 + 300 q.
        expected = [factor * x for x in (130, 250, 370, 397)]
        assert x_of(markers) == pytest.approx(expected)
        assert y_of(markers) == [0.1, 0.5, 0.9, 0.99]
        assert markers.get_marker() == style.MARKERS[policy]
    assert axes.get_xlabel() == "TTFT, ms"
    assert "from when a request was due (scheduled), not" in caption(figure)


def test_labels_of_the_axis_have_room(root: Path, tmp_path: Path) -> None:
    figure = onlinettft.draw(
        measured(root, tmp_path, _made, experiment(loads=[open_loop(8)])), _ENTRY
    )
    figure.canvas.draw()
    axis = figure.axes[0].xaxis
    low, high = figure.axes[0].get_xlim()
    shown = [
        tick.label1.get_text() for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high
    ]
    assert shown == ["100", "200", "500"]
    assert not any(tick.label1.get_text() for tick in axis.get_minor_ticks())


def test_seeds_are_drawn_together(root: Path, tmp_path: Path) -> None:
    load = experiment(loads=[open_loop(8)], seeds=[42, 43])
    figure = onlinettft.draw(measured(root, tmp_path, _made, load), _ENTRY)
    steps, _ = lines(figure.axes[0], style.COLORS["lru"])
    assert y_of(steps) == [number / 8 for number in range(1, 9)]
    assert "seeds 42, 43" in caption(figure)


@pytest.mark.parametrize(("rates", "rows", "columns"), [(1, 1, 2), (3, 2, 2), (4, 2, 3)])
def test_panels_are_named_and_each_column_has_an_axis(
    root: Path, tmp_path: Path, rates: int, rows: int, columns: int
) -> None:
    loads = [open_loop(rate) for rate in range(1, rates + 1)]
    drawn_from = measured(root, tmp_path, _made, experiment(loads=loads), experiment(**CHAT))
    figure = onlinettft.draw(drawn_from, _ENTRY)
    assert len(figure.axes) == rows * columns
    used = [axes for axes in figure.axes if axes.axison]
    assert len(used) == rates + 1
    assert all(title(axes).startswith("Doc-QA: open loop") for axes in used[:-1])
    assert title(used[-1]).startswith("Conversation: closed loop, 4 users")
    for axes in used[-columns:]:
        assert axes.get_xlabel() == "TTFT, ms"
        assert axes.xaxis.get_tick_params()["labelbottom"]


def test_not_run_is_a_figure_that_says_why(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(root, tmp_path, lambda _: "no network", experiment(**CHAT))
    figure = onlinettft.draw(drawn_from, _ENTRY)
    assert "not run: no network" in text(figure)
