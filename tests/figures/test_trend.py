import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from support.drawn import caption, legend, text, title, whiskered, y_of
from support.nights import C1, C2, SETTING, exact, night, nights

from figures import trend
from harness.analysis import gate
from harness.analysis.gate import Claim, Night

_NEVER = exact("L1", -0.5)


@pytest.fixture(scope="module")
def sixty() -> list[Night]:
    """60 nights: C1 drifts from the 31st, C2 is broken on the 41st and missing on the 51st.

    A claim that never holds is there, too.
    """
    shifts = {"C1": lambda i: -0.04 * max(0, i - 30), "C2": lambda i: 12.0 * (i == 40)}
    history = nights(60, [C1, C2, _NEVER], shifts=shifts)
    nothing = {"ours": None, "ci95": None, "verdict": "not run", "points": ()}
    c1, c2, never = history[50].claims
    missing = Claim.model_validate(c2.model_dump() | nothing)
    history[50] = night(50, c1, missing, never)
    return history


@pytest.fixture(scope="module")
def drawn_sixty(sixty: list[Night]) -> Figure:
    return trend.draw(sixty)


def _marks(axes: Axes, kind: gate.Kind) -> list[float]:
    """Return the heights of the alarms of a kind."""
    return [
        value
        for line in axes.get_lines()
        if line.get_marker() == trend._MARKS[kind] and line.get_linestyle() == "None"
        for value in y_of(line)
    ]


def _bands(axes: Axes) -> list[tuple[float, float]]:
    rectangles = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return [(band.get_y(), band.get_y() + band.get_height()) for band in rectangles]


def test_a_panel_for_each_claim_that_the_gate_guards(
    sixty: list[Night], drawn_sixty: Figure
) -> None:
    c1, c2 = drawn_sixty.axes
    assert title(c1) == "C1, tier replay: made-up claim C1"
    assert c2.get_ylabel() == "ARC to LRU, %"
    assert "60 nights, 2030-01-01 to 2030-03-01" in caption(drawn_sixty)
    assert caption(drawn_sixty).endswith("did not hold or are new: L1 replay hit_rate.")
    for axes, place in ((c1, 0), (c2, 1)):
        claims = [each.claims[place] for each in sixty]
        (drawn,) = whiskered(axes)
        ours = np.array([claim.ours for claim in claims], float)
        np.testing.assert_array_equal(drawn.y, ours)
        assert np.isnan(ours[50]) == (place == 1)
        ends = [claim.interval for claim in claims if claim.ran]
        np.testing.assert_allclose([found for found in drawn.ends if found], ends)
        (paper,) = (line for line in axes.get_lines() if line.get_linestyle() == "--")
        assert y_of(paper) == [claims[0].paper] * 2
    # The band of noise only where there is any.
    assert C2.noise
    band = 1.96 * C2.noise / 6**0.5
    np.testing.assert_allclose(_bands(c2)[0], (-band, band), rtol=0.1)
    assert _bands(c2)[1:] == [claims[0].allowed]
    assert len(_bands(c1)) == 1


def test_alarms_are_marked_where_the_gate_raises_them(
    sixty: list[Night], drawn_sixty: Figure
) -> None:
    c1, c2 = drawn_sixty.axes
    alarmed = [
        {alarm.kind for alarm in gate.judge(tonight, sixty[:i])[0].alarms}
        for i, tonight in enumerate(sixty)
    ]
    first = next(i for i, kinds in enumerate(alarmed) if kinds)
    assert alarmed[first] == {"drift"}
    assert _marks(c1, "drift")[0] == sixty[first].claims[0].ours
    out = [i for i, kinds in enumerate(alarmed) if "out of tolerance" in kinds]
    # One mark a night, of what weighs more.
    assert _marks(c1, "out of tolerance") == [sixty[i].claims[0].ours for i in out]
    assert len(_marks(c1, "drift")) == sum(map(bool, alarmed)) - len(out)
    assert _marks(c2, "direction lost") == [sixty[40].claims[1].ours]
    # At the foot of the panel, having no value.
    assert _marks(c2, "not run") == [0.05]
    assert legend(drawn_sixty.legends[0]) == [
        "ours, 95 %",
        "paper",
        "allowed size",
        "noise: equal cells, 95 %",
        *("alarm: not run", "alarm: direction lost", "alarm: out of tolerance", "alarm: drift"),
    ]


def _changes(axes: Axes) -> list[object]:
    """Return when lines say that the setting changed."""
    return [
        next(iter(line.get_xdata())) for line in axes.get_lines() if line.get_linestyle() == "-."
    ]


def test_another_setting_is_seen_in_the_tier_that_has_it() -> None:
    history = nights(12, [C1, C2])
    other = {"replay": SETTING, "gpu": SETTING | {"engine_version": ("other",)}}
    for i in range(8, 12):
        history[i] = history[i].model_copy(update={"provenance": other})
    figure = trend.draw(history)
    assert [_changes(axes) for axes in figure.axes] == [[], [night(8).date]]
    assert legend(figure.legends[0])[-1] == "other engine, model or machine"


def test_dates_are_below_the_last_panel_of_each_column() -> None:
    three = [exact(f"S{i}", 5.0, paper=(5.0,)) for i in range(3)]
    figure = trend.draw(nights(8, three))
    assert len(figure.axes) == 3
    figure.canvas.draw()
    shown = [any(label.get_visible() for label in axes.get_xticklabels()) for axes in figure.axes]
    assert shown == [False, True, True]


def test_nothing_guarded_is_a_figure_that_says_so() -> None:
    assert "none is guarded yet: of 4 nights" in text(trend.draw(nights(4, [C1])))


def _main(monkeypatch: pytest.MonkeyPatch, *arguments: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["figures.trend", *map(str, arguments)])
    return trend.main()


def test_command_draws_a_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    history, png = tmp_path / "h.jsonl", tmp_path / "new" / "trend.png"
    assert _main(monkeypatch, history, png) == 1
    assert capsys.readouterr().err.startswith(f"error: {history}: no such history")
    for each in nights(6, [C1]):
        gate.append(history, each)
    assert _main(monkeypatch, history, png) == 0
    assert {path.name for path in png.parent.iterdir()} == {"trend.png", "trend.pdf"}
    history.write_text("{}\n")
    assert _main(monkeypatch, history, png) == 1
    assert "line 1: not a night" in capsys.readouterr().err
