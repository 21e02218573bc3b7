from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.drawn import caption, legend, text, title, whiskered, y_of
from support.results import due, experiment, measured, open_loop

from figures import onlinerate
from figures.catalogue import FIGURES
from harness.cell import CellSpec, OpenLoop
from harness.errors import HarnessError
from harness.measure.records import RequestRecord

_ENTRY = FIGURES["online-rate"]
_RATES = [open_loop(rate) for rate in (2, 4, 10)]
_COUNT = 400


def _ttfts(policy: str, rate: float) -> "np.ndarray[Any, Any]":
    """Return TTFTs that grow with the rate, in no order; ARC's are a tenth longer at rate 4."""
    base = 50 * rate * np.random.default_rng(1).uniform(1, 2, _COUNT)
    return np.round(base * (1.1 if (policy, rate) == ("arc", 4) else 1), 6)


def _made(spec: CellSpec) -> list[RequestRecord]:
    assert isinstance(spec.load, OpenLoop)
    assert spec.load.request_rate
    rate = spec.load.request_rate
    ttfts = _ttfts(spec.policy, rate)
    return [due(i, 1000 * i / rate, ttft) for i, ttft in enumerate(ttfts)]


def test_statistics_of_ttft_since_due_by_rate(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(root, tmp_path, _made, experiment(loads=_RATES))
    figure = onlinerate.draw(drawn_from, _ENTRY)
    statistics: dict[str, Callable[[Any], Any]] = {
        "Mean": np.mean,
        "Median": np.median,
        "90th percentile": lambda ttfts: np.percentile(ttfts, 90),
        "99th percentile": lambda ttfts: np.percentile(ttfts, 99),
    }
    assert [title(axes) for axes in figure.axes] == list(statistics)
    for axes, statistic in zip(figure.axes, statistics.values(), strict=True):
        lru, arc = (points.y for points in whiskered(axes))
        assert lru == pytest.approx([statistic(_ttfts("lru", rate)) for rate in (2, 4, 10)])
        # A policy that loses is seen to.
        assert np.divide(arc, lru) == pytest.approx([1, 1.1, 1])
    assert [label.get_text() for label in figure.axes[2].get_xticklabels()] == ["2", "4", "10"]
    assert "kept up" in caption(figure)


def test_whiskers_are_around_each_point(root: Path, tmp_path: Path) -> None:
    figure = onlinerate.draw(measured(root, tmp_path, _made, experiment(loads=_RATES)), _ENTRY)
    for points in whiskered(figure.axes[0]):
        for height, (low, high) in zip(points.y, points.ends, strict=True):
            # About 1.96 standard errors of a uniform variable: 3 % of the mean, half way.
            assert 0.95 * height < low < height < high < 1.05 * height


def test_saturated_cells_are_ringed_and_no_others(root: Path, tmp_path: Path) -> None:
    def made(spec: CellSpec) -> list[RequestRecord]:
        assert isinstance(spec.load, OpenLoop)
        is_slow = (spec.policy, spec.load.request_rate) == ("lru", 10)
        # The last request is due after 39.9 s; 10 s later the server has done 80 %.
        return [due(i, 100 * i, 25 * i if is_slow else 50) for i in range(_COUNT)]

    figure = onlinerate.draw(measured(root, tmp_path, made, experiment(loads=_RATES)), _ENTRY)
    rings = [line for line in figure.axes[0].get_lines() if line.get_markerfacecolor() == "none"]
    assert [y_of(ring) for ring in rings] == [[25 * (_COUNT - 1) / 2]]
    assert "Saturated: the server finished less than 95 %" in caption(figure)
    assert legend(figure.legends[0]) == ["LRU", "ARC", "saturated"]
    # From 50 ms to seconds.
    assert figure.axes[0].get_yscale() == "log"


def test_one_rate_and_few_requests_are_drawn(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(
        root,
        tmp_path,
        lambda spec: [due(0, 0, 30), due(1, 100, 50)],
        experiment(loads=[open_loop(8)], cache_tokens=[50_000]),
        base="smoke",
    )
    figure = onlinerate.draw(drawn_from, _ENTRY)
    lru, arc = whiskered(figure.axes[0])
    assert lru.y == arc.y == [40]
    assert lru.ends == [[30, 50]]
    left, right = figure.axes[0].get_xlim()
    assert left < 8 < right


def test_a_trace_has_no_rate(root: Path, tmp_path: Path) -> None:
    trace = {"mode": "open-loop", "arrivals": "trace"}
    drawn_from = measured(root, tmp_path, lambda _: [due(0, 0, 30)], experiment(loads=[trace]))
    with pytest.raises(HarnessError, match="no valid cell has a request rate"):
        onlinerate.draw(drawn_from, _ENTRY)


def test_not_run_is_a_figure_that_says_why(root: Path, tmp_path: Path) -> None:
    drawn_from = measured(root, tmp_path, lambda _: "no network", experiment(loads=_RATES))
    figure = onlinerate.draw(drawn_from, _ENTRY)
    assert "not run: no network" in text(figure)
