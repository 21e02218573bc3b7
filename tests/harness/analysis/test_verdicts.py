import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis import verdicts
from harness.analysis.stats import Interval

_MARGINS = (0.67, 1.5)
_NUMBERS = st.floats(-4, 4)
_WIDTHS = st.floats(0, 3)
_INTERVALS = st.tuples(_NUMBERS, _NUMBERS, _NUMBERS).map(
    lambda ends: Interval(sorted(ends)[1], min(ends), max(ends))
)


def _widened(interval: Interval, below: float, above: float) -> Interval:
    return Interval(interval.value, interval.low - below, interval.high + above)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.7, 1.4, "reproduced"),
        (0.67, 1.5, "reproduced"),
        (1.0, 1.0, "reproduced"),
        (0.6, 1.4, "undecided"),
        (0.7, 1.6, "undecided"),
        (0.1, 0.6, "smaller"),
        (-0.1, 0.6, "undecided"),
        (1.6, 9.0, "larger"),
        (-0.5, -0.1, "refuted"),
        # None at all is not the direction that is claimed.
        (0.0, 0.0, "refuted"),
        (-math.inf, math.inf, "undecided"),
    ],
)
def test_share_against_its_margins(low: float, high: float, verdict: str) -> None:
    assert verdicts.of_share(Interval(1, low, high), _MARGINS) == verdict


@given(_INTERVALS)
def test_exactly_one_verdict_holds(share: Interval) -> None:
    low, high = _MARGINS
    holds = {
        "reproduced": low <= share.low and share.high <= high,
        "smaller": share.low > 0 and share.high < low,
        "larger": high < share.low,
        "refuted": share.high <= 0,
    }
    assert sum(holds.values()) <= 1
    expected = next((name for name, is_so in holds.items() if is_so), "undecided")
    assert verdicts.of_share(share, _MARGINS) == expected


@given(_INTERVALS, _WIDTHS, _WIDTHS)
def test_a_wider_interval_decides_nothing_that_a_narrower_one_does_not(
    interval: Interval, below: float, above: float
) -> None:
    wider = _widened(interval, below, above)
    pairs = [
        (verdicts.of_share(interval, _MARGINS), verdicts.of_share(wider, _MARGINS)),
        (verdicts.of_direction(interval, "down"), verdicts.of_direction(wider, "down")),
        (verdicts.of_none([interval], 1), verdicts.of_none([wider], 1)),
    ]
    for narrow, wide in pairs:
        assert wide in (narrow, "undecided")


@given(_INTERVALS)
def test_directions_are_each_others_mirror(effect: Interval) -> None:
    mirrored = Interval(-effect.value, -effect.high, -effect.low)
    assert verdicts.of_direction(effect, "up") == verdicts.of_direction(mirrored, "down")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 2.0, "reproduced"),
        (-0.1, 2.0, "undecided"),
        (-2.0, 0.0, "refuted"),
        (0.0, 0.0, "refuted"),
        (0.0, 1.0, "undecided"),
    ],
)
def test_direction_without_a_size(low: float, high: float, verdict: str) -> None:
    assert verdicts.of_direction(Interval(low, low, high), "up") == verdict


def test_none_is_within_the_tolerance_at_every_point() -> None:
    within, across, outside = (
        Interval(0, -0.9, 1.0),
        Interval(0.9, 0.5, 1.2),
        Interval(-2, -3, -1.1),
    )
    assert verdicts.of_none([within, within], 1) == "reproduced"
    assert verdicts.of_none([within, across], 1) == "undecided"
    assert verdicts.of_none([within, across, outside], 1) == "refuted"


@given(_WIDTHS, _WIDTHS)
def test_power_falls_with_the_width_and_errors_are_rare(one: float, other: float) -> None:
    narrow, wide = (
        verdicts.power(_widened(Interval(0.9, 0.9, 0.9), width, width), _MARGINS)
        for width in sorted((one, other))
    )
    assert narrow.full >= wide.full
    for power in (narrow, wide):
        assert 0 <= power.full <= 1
        # Each of the two tests errs in 1 of 40 cases, at the margin.
        assert 0 <= power.none <= power.half <= 0.025


def test_power_of_what_is_exact_and_of_what_nobody_knows() -> None:
    assert verdicts.power(Interval(0.9, 0.9, 0.9), _MARGINS) == (1, 0, 0)
    assert verdicts.power(Interval(0.9, -math.inf, math.inf), _MARGINS) == (0, 0, 0)


@pytest.mark.parametrize("error", [0.08, 0.15, 0.2])
def test_power_is_how_often_it_is_reproduced(error: float) -> None:
    rng = np.random.default_rng(1)
    half = 1.959964 * error
    power = verdicts.power(Interval(1, 1 - half, 1 + half), _MARGINS)
    for truth, expected in zip((1, 0.5, 0), power, strict=True):
        found = [
            verdicts.of_share(Interval(value, value - half, value + half), _MARGINS)
            for value in rng.normal(truth, error, 4000)
        ]
        # Four standard deviations of a share of 4,000.
        assert found.count("reproduced") / 4000 == pytest.approx(expected, abs=0.032)


@given(_NUMBERS, st.floats(0.01, 3))
def test_so_much_more_data_would_decide(value: float, half: float) -> None:
    share = Interval(value, value - half, value + half)
    times = verdicts.more_needed(share, _MARGINS)
    if verdicts.of_share(share, _MARGINS) == "undecided" and times < 1e6:
        assert times >= 1 - 1e-9
        narrow = half / (1.001 * times) ** 0.5
        decided = Interval(value, value - narrow, value + narrow)
        assert verdicts.of_share(decided, _MARGINS) != "undecided"


def test_no_data_decides_what_lies_at_a_margin() -> None:
    assert verdicts.more_needed(Interval(1.5, 1.4, 1.6), _MARGINS) == math.inf
    assert verdicts.more_needed(Interval(1, -math.inf, math.inf), _MARGINS) == math.inf


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.3, 0.1, "reproduced"),
        (0.0, 9.0, "reproduced"),
        (-0.31, 0.1, "undecided"),
        (-9.0, -0.3, "undecided"),
        (-9.0, -0.31, "refuted"),
        (-math.inf, math.inf, "undecided"),
    ],
)
def test_at_least_so_much(low: float, high: float, verdict: str) -> None:
    assert verdicts.of_least(Interval(0, low, high), -0.3) == verdict


def test_one_point_refutes_what_is_said_of_all() -> None:
    assert verdicts.of_all(["reproduced", "reproduced"]) == "reproduced"
    assert verdicts.of_all(["reproduced", "undecided"]) == "undecided"
    assert verdicts.of_all(["undecided", "refuted", "reproduced"]) == "refuted"
